// One AXI4 master port of the accelerator as the memory sees it: INCR bursts of full beats,
// answered in order (or, on request, in order per id only), with the protocol checked and counted.
//
// A cycle is drive() with the state decided before, the evaluation of the top, observe() of the
// handshakes that the coming clock edge completes, and schedule() of the next cycle. Nothing that
// the port drives depends on what the top drives in the same cycle.
#pragma once

#include <array>
#include <cstdint>
#include <deque>

#include "memory.h"

namespace moevit {

// Names in kPortCounters, in this order.
enum PortCounter {
  kReadBursts,
  kReadBytes,
  kReadWaits,     // cycles with a read open and no beat offered
  kReadStalls,    // cycles with a beat offered and not taken
  kWriteBursts,
  kWriteBytes,    // with their strobe set
  kWriteWaits,    // cycles with data offered and not taken
  kBadResponses,  // beats and write responses answered with an error
  kBoundary,      // bursts across a 4 KiB boundary
  kBurstKind,     // bursts that are not INCR, or whose beats are narrower than the port
  kUnaligned,     // bursts that do not begin at a beat
  kUnstable,      // valid withdrawn, or payload changed, before ready
  kLast,          // wlast missing or early
  kPortCounterCount,
};

inline constexpr std::array<const char*, kPortCounterCount> kPortCounters = {
    "read_bursts",  "read_bytes",    "read_waits",         "read_stalls",
    "write_bursts", "write_bytes",   "write_waits",        "error_responses",
    "bad_boundary", "bad_burst",     "bad_alignment",      "bad_stability",
    "bad_last",
};

template <class Top, class Pins>
class Port {
 public:
  static constexpr bool reads = Pins::template reads<Top>();
  static constexpr bool writes = Pins::template writes<Top>();
  static constexpr size_t beat = Pins::template beat_bytes<Top>();

  std::array<uint64_t, kPortCounterCount> counters{};

  void reset() {
    reads_.clear();
    writes_.clear();
    acks_.clear();
    serving_ = offered_ = changed_ = false;
    arready_ = awready_ = wready_ = bvalid_ = false;
    held_ar_ = held_aw_ = held_w_ = Held{};
  }

  void drive(Top& top) {
    if constexpr (reads) {
      Pins::arready(top, arready_);
      Pins::rvalid(top, offered_);
      if (offered_ && changed_) {
        Pins::rdata(top, data_.data());
        Pins::rid(top, rid_);
        Pins::rresp(top, rresp_);
        Pins::rlast(top, rlast_);
        changed_ = false;
      }
    }
    if constexpr (writes) {
      Pins::awready(top, awready_);
      Pins::wready(top, wready_);
      Pins::bvalid(top, bvalid_);
      if (bvalid_) {
        Pins::bid(top, acks_.front().id);
        Pins::bresp(top, acks_.front().response);
      }
    }
  }

  void observe(const Top& top, Memory& memory) {
    if constexpr (reads) observe_reads(top, memory);
    if constexpr (writes) observe_writes(top, memory);
  }

  void schedule(Memory& memory) {
    if constexpr (reads) schedule_reads(memory);
    if constexpr (writes) schedule_writes(memory);
  }

 private:
  struct Burst {
    uint64_t address;
    uint64_t beats;   // left
    uint64_t id;
    uint64_t due;     // first cycle of an answer
    Response response;
  };
  // What a channel offered in the last cycle without being taken: it must not change.
  struct Held {
    bool valid = false;
    std::array<uint64_t, 4> payload{};
  };

  void check_stable(Held& held, bool valid, bool ready, const std::array<uint64_t, 4>& payload) {
    if (held.valid && (!valid || payload != held.payload)) ++counters[kUnstable];
    held.valid = valid && !ready;
    if (held.valid) held.payload = payload;
  }

  void check_burst(uint64_t address, uint64_t beats, uint64_t size, uint64_t kind) {
    const uint64_t last = address + beats * beat - 1;
    if ((address >> 12) != (last >> 12)) ++counters[kBoundary];
    if (kind != 1 || (size != Pins::full && (uint64_t{1} << size) != beat)) ++counters[kBurstKind];
    if (address % beat) ++counters[kUnaligned];
  }

  void observe_reads(const Top& top, Memory& memory) {
    const bool valid = Pins::arvalid(top);
    if (valid || held_ar_.valid) {
      const uint64_t address = Pins::araddr(top), length = Pins::arlen(top), id = Pins::arid(top);
      check_stable(held_ar_, valid, arready_, {address, length, id, Pins::arburst(top)});
      if (valid && arready_) {
        check_burst(address, length + 1, Pins::arsize(top), Pins::arburst(top));
        const uint64_t aligned = address - address % beat;
        const uint64_t due = memory.cycle() + memory.parameters.read_latency;
        reads_.push_back({aligned, length + 1, id, due, kOkay});
        ++counters[kReadBursts];
      }
    }
    if (offered_) {
      if (Pins::rready(top)) {
        offered_ = false;
        counters[kReadBytes] += beat;
        if (rresp_ != kOkay) ++counters[kBadResponses];
      } else {
        ++counters[kReadStalls];
      }
    } else if (!reads_.empty()) {
      ++counters[kReadWaits];
    }
  }

  void schedule_reads(Memory& memory) {
    arready_ = reads_.size() < memory.parameters.outstanding && !memory.stall();
    if (offered_ || reads_.empty() || !memory.bus_free()) return;
    if (!serving_ && memory.parameters.reorder) bring_forward(memory);
    Burst& burst = reads_.front();
    if (burst.due > memory.cycle() || memory.stall()) return;
    memory.take(beat);
    rresp_ = memory.response(burst.address, beat);
    if (memory.holds(burst.address, beat))
      std::memcpy(data_.data(), memory.at(burst.address), beat);
    else
      data_.fill(0);
    rid_ = burst.id;
    burst.address += beat;
    rlast_ = --burst.beats == 0;
    serving_ = !rlast_;
    if (rlast_) reads_.pop_front();
    offered_ = changed_ = true;
  }

  // Moves a random burst that is the oldest of its id to the front.
  void bring_forward(Memory& memory) {
    const size_t chosen = memory.choose(reads_.size());
    for (size_t i = 0; i <= chosen; ++i) {
      if (reads_[i].id != reads_[chosen].id) continue;
      const Burst burst = reads_[i];
      reads_.erase(reads_.begin() + i);
      reads_.push_front(burst);
      return;
    }
  }

  void observe_writes(const Top& top, Memory& memory) {
    const bool valid = Pins::awvalid(top);
    if (valid || held_aw_.valid) {
      const uint64_t address = Pins::awaddr(top), length = Pins::awlen(top), id = Pins::awid(top);
      check_stable(held_aw_, valid, awready_, {address, length, id, Pins::awburst(top)});
      if (valid && awready_) {
        check_burst(address, length + 1, Pins::awsize(top), Pins::awburst(top));
        writes_.push_back({address - address % beat, length + 1, id, 0, kOkay});
        ++counters[kWriteBursts];
      }
    }
    if (bvalid_ && Pins::bready(top)) {
      acks_.pop_front();
      bvalid_ = false;
    }
    const bool offered = Pins::wvalid(top);
    if (offered || held_w_.valid) {
      std::array<uint8_t, beat> data{};
      Pins::wdata(top, data.data());
      const uint64_t strobe = Pins::wstrb(top), last = Pins::wlast(top);
      check_stable(held_w_, offered, wready_, {digest(data), strobe, last, 0});
      if (offered && wready_)
        store(memory, data.data(), strobe, last);
      else if (offered)
        ++counters[kWriteWaits];
    }
  }

  void store(Memory& memory, const uint8_t* data, uint64_t strobe, bool last) {
    Burst& burst = writes_.front();
    memory.take(beat);
    const Response response = memory.response(burst.address, beat);
    if (response == kOkay) {
      uint8_t* target = memory.at(burst.address);
      for (size_t i = 0; i < beat; ++i) {
        if (!((strobe >> i) & 1)) continue;
        target[i] = data[i];
        ++counters[kWriteBytes];
      }
    }
    burst.response = std::max(burst.response, response);
    burst.address += beat;
    --burst.beats;
    if (last != (burst.beats == 0)) ++counters[kLast];
    if (burst.beats) return;
    burst.due = memory.cycle() + memory.parameters.write_latency;
    if (burst.response != kOkay) ++counters[kBadResponses];
    acks_.push_back(burst);
    writes_.pop_front();
  }

  void schedule_writes(Memory& memory) {
    const size_t open = writes_.size() + acks_.size();
    awready_ = open < memory.parameters.outstanding && !memory.stall();
    wready_ = !writes_.empty() && memory.bus_free() && !memory.stall();
    if (!bvalid_ && !acks_.empty() && acks_.front().due <= memory.cycle())
      bvalid_ = !memory.stall();
  }

  static uint64_t digest(const std::array<uint8_t, beat>& data) {
    uint64_t sum = 0;
    for (uint8_t byte : data) sum = sum * 1099511628211u + byte;
    return sum;
  }

  std::deque<Burst> reads_, writes_, acks_;
  std::array<uint8_t, beat> data_{};
  Held held_ar_, held_aw_, held_w_;
  uint64_t rid_ = 0;
  Response rresp_ = kOkay;
  bool rlast_ = false, serving_ = false, offered_ = false, changed_ = false;
  bool arready_ = false, awready_ = false, wready_ = false, bvalid_ = false;
};

}  // namespace moevit
