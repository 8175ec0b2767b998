// The verilated accelerator with its memory behind a plain C interface, for sim/native.py.
//
// `moevit_ports.h` is generated for each top by sim/native_library.py and defines
//   MOEVIT_TOP                 the verilated class
//   MOEVIT_PINS                one MOEVIT_MASTER_PINS(NAME, PREFIX) for each AXI4 master
//   MOEVIT_MASTERS             the NAMEs, separated by commas
//   MOEVIT_DOT                 T, I, O of the array, where the top has a moevit_dot
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <tuple>

#include "dot.h"
#include "moevit_ports.h"
#include "pins.h"
#include "port.h"
#include "svdpi.h"
#include "verilated.h"
#include "watch.h"

namespace moevit {
MOEVIT_PINS

using Top = MOEVIT_TOP;

template <class... Pins>
using Ports = std::tuple<Port<Top, Pins>...>;

template <class... Pins>
struct Names {
  static constexpr std::array<const char*, sizeof...(Pins)> value = {Pins::name...};
};
inline constexpr auto kPortNames = Names<MOEVIT_MASTERS>::value;

enum Outcome : int32_t { kInterrupt = 0, kCycleLimit = 1 };
inline constexpr int32_t kNoAnswer = -1;

class Simulation {
 public:
  explicit Simulation(const Parameters& parameters)
      : memory(parameters), context_(new VerilatedContext), top_(new Top{context_.get(), "top"}) {
    reset(8);
  }
  ~Simulation() { top_->final(); }

  void reset(uint64_t cycles) {
    each([&](auto& port) {
      port.reset();
      port.drive(*top_);
    });
    Control::awvalid(*top_, 0);
    Control::wvalid(*top_, 0);
    Control::arvalid(*top_, 0);
    Control::bready(*top_, 0);
    Control::rready(*top_, 0);
    top_->rst = 1;
    for (uint64_t i = 0; i < cycles; ++i) clock();
    top_->rst = 0;
    // A top that registers its reset stays in it for a cycle; whatever it said so far is void.
    for (uint64_t i = 0; i < 4; ++i) clock();
  }

  // Whether anything is recorded is settled outside the loop.
  Outcome run(uint64_t limit) {
    return watch.on() ? run<true>(limit) : run<false>(limit);
  }

  template <bool watched>
  Outcome run(uint64_t limit) {
    for (uint64_t i = 0; i < limit; ++i) {
      if (Control::irq(*top_)) return kInterrupt;
      step([&] {
        if constexpr (watched) observe();
      });
    }
    return Control::irq(*top_) ? kInterrupt : kCycleLimit;
  }

  // Both return the response, or kNoAnswer after `limit` cycles.
  int32_t write_register(uint64_t address, uint32_t value, uint64_t limit) {
    Control::awaddr(*top_, address);
    Control::wdata(*top_, value);
    Control::wstrb(*top_, 0xf);
    bool address_open = true, data_open = true;
    Control::bready(*top_, 1);
    int32_t answer = kNoAnswer;
    for (uint64_t i = 0; i < limit && answer == kNoAnswer; ++i) {
      Control::awvalid(*top_, address_open);
      Control::wvalid(*top_, data_open);
      step([&] {
        if (watch.on()) observe();
        if (Control::awready(*top_)) address_open = false;
        if (Control::wready(*top_)) data_open = false;
        if (Control::bvalid(*top_)) answer = int32_t(Control::bresp(*top_));
      });
    }
    Control::awvalid(*top_, 0);
    Control::wvalid(*top_, 0);
    Control::bready(*top_, 0);
    return answer;
  }

  int32_t read_register(uint64_t address, uint32_t* value, uint64_t limit) {
    Control::araddr(*top_, address);
    bool open = true;
    Control::rready(*top_, 1);
    int32_t answer = kNoAnswer;
    for (uint64_t i = 0; i < limit && answer == kNoAnswer; ++i) {
      Control::arvalid(*top_, open);
      step([&] {
        if (watch.on()) observe();
        if (Control::arready(*top_)) open = false;
        if (!Control::rvalid(*top_)) return;
        *value = uint32_t(Control::rdata(*top_));
        answer = int32_t(Control::rresp(*top_));
      });
    }
    Control::arvalid(*top_, 0);
    Control::rready(*top_, 0);
    return answer;
  }

  template <class Visit>
  void each(Visit visit) {
    std::apply([&](auto&... port) { (visit(port), ...); }, ports);
  }

  Memory memory;
  Ports<MOEVIT_MASTERS> ports;
  Watch<Top, kPortNames.size()> watch;

 private:
  using Control = ControlPins;

  void clock() {
    top_->clk = 0;
    top_->eval();
    top_->clk = 1;
    top_->eval();
  }

  void observe() {
    watch.observe(*top_, memory.cycle(), [&](auto visit) { each(visit); });
  }

  // One cycle; `seen` runs while the pins hold what the clock edge will find.
  template <class Seen>
  void step(Seen seen) {
    Top& top = *top_;
    each([&](auto& port) { port.drive(top); });
    top.clk = 0;
    top.eval();
    each([&](auto& port) { port.observe(top, memory); });
    seen();
    top.clk = 1;
    top.eval();
    memory.tick();
    // The port behind the one that had the bus last asks first. A turn that came with the cycle
    // instead could fall into step with the bandwidth's fractions and favour a port.
    constexpr size_t count = std::tuple_size_v<decltype(ports)>;
    const size_t begin = first_;
    size_t index = 0;
    const auto ask = [&](auto& port, bool now) {
      const uint64_t before = memory.beats();
      if (now) port.schedule(memory);
      ++index;
      if (memory.beats() != before) first_ = index == count ? 0 : index;
    };
    each([&](auto& port) { ask(port, index >= begin); });
    index = 0;
    each([&](auto& port) { ask(port, index < begin); });
  }

  std::unique_ptr<VerilatedContext> context_;
  std::unique_ptr<Top> top_;
  size_t first_ = 0;
};

}  // namespace moevit

#define MOEVIT_EXPORT extern "C" __attribute__((visibility("default")))
using moevit::Simulation;

MOEVIT_EXPORT uint32_t moevit_port_count() { return moevit::kPortNames.size(); }
MOEVIT_EXPORT const char* moevit_port_name(uint32_t i) { return moevit::kPortNames[i]; }
MOEVIT_EXPORT uint32_t moevit_counter_count() { return moevit::kPortCounterCount; }
MOEVIT_EXPORT const char* moevit_counter_name(uint32_t i) { return moevit::kPortCounters[i]; }
MOEVIT_EXPORT uint64_t moevit_parameters_size() { return sizeof(moevit::Parameters); }

MOEVIT_EXPORT Simulation* moevit_new(const moevit::Parameters* parameters) {
  try {
    return new Simulation(*parameters);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
MOEVIT_EXPORT void moevit_delete(Simulation* s) { delete s; }
MOEVIT_EXPORT void moevit_configure(Simulation* s, const moevit::Parameters* p) {
  s->memory.configure(*p);
}
MOEVIT_EXPORT void moevit_reset(Simulation* s, uint64_t cycles) { s->reset(cycles); }

MOEVIT_EXPORT int32_t moevit_write(Simulation* s, uint64_t address, const void* bytes, uint64_t n) {
  if (!s->memory.holds(address, n)) return -1;
  std::memcpy(s->memory.at(address), bytes, n);
  return 0;
}
MOEVIT_EXPORT int32_t moevit_read(Simulation* s, uint64_t address, void* bytes, uint64_t n) {
  if (!s->memory.holds(address, n)) return -1;
  std::memcpy(bytes, s->memory.at(address), n);
  return 0;
}
MOEVIT_EXPORT void moevit_inject(Simulation* s, uint64_t address, uint64_t n, uint32_t response) {
  s->memory.inject(address, n, static_cast<moevit::Response>(response));
}
MOEVIT_EXPORT void moevit_clear_faults(Simulation* s) { s->memory.clear_faults(); }

MOEVIT_EXPORT int32_t moevit_run(Simulation* s, uint64_t cycles) { return s->run(cycles); }
MOEVIT_EXPORT int32_t moevit_reg_write(Simulation* s, uint64_t address, uint32_t value,
                                       uint64_t limit) {
  return s->write_register(address, value, limit);
}
MOEVIT_EXPORT int32_t moevit_reg_read(Simulation* s, uint64_t address, uint32_t* value,
                                      uint64_t limit) {
  return s->read_register(address, value, limit);
}

MOEVIT_EXPORT uint64_t moevit_cycle(const Simulation* s) { return s->memory.cycle(); }
// `counters` holds moevit_port_count() rows of moevit_counter_count() numbers.
MOEVIT_EXPORT void moevit_counters(Simulation* s, uint64_t* counters) {
  s->each([&](auto& port) {
    for (uint64_t value : port.counters) *counters++ = value;
  });
}
MOEVIT_EXPORT void moevit_clear_counters(Simulation* s) {
  s->watch.clearing([&](auto visit) { s->each(visit); });
  s->each([](auto& port) { port.counters.fill(0); });
}

MOEVIT_EXPORT uint32_t moevit_watch_words() { return decltype(Simulation::watch)::words; }
// What changes is recorded from here on; some of it only every `period` cycles. 0 ends it.
MOEVIT_EXPORT void moevit_watch(Simulation* s, uint64_t period) {
  period ? s->watch.start(period) : s->watch.stop();
}
MOEVIT_EXPORT uint64_t moevit_change_count(const Simulation* s) {
  return s->watch.changes().size();
}
// `changes` holds moevit_change_count() of them; they are forgotten here.
MOEVIT_EXPORT void moevit_take_changes(Simulation* s, moevit::Change* changes) {
  const auto& all = s->watch.changes();
  std::memcpy(changes, all.data(), all.size() * sizeof(moevit::Change));
  s->watch.clear();
}

#ifdef MOEVIT_DOT
// What dot.sv imports: vectors of 32-bit words, the lowest first.
extern "C" void moevit_dot_sums(const svBitVecVal* a, const svBitVecVal* w, svBitVecVal* o) {
  moevit::dot_products<MOEVIT_DOT>(a, w, o);
}
#endif
