// The verilated system of boards/lattice/system.py between a serial line and an SDRAM, for
// boards/lattice/simulated.py. The SDRAM is a model of one chip of 16 bits with four banks: it keeps
// the words, and says which command came at a wrong time. Both are on the far side of the pins.
#include <array>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "Vsystem.h"
#include "verilated.h"

namespace {

constexpr int kCasLatency = 2, kBurst = 8, kColumns = 512, kBanks = 4, kRows = 8192;
enum Command { kNop = 0, kActivate = 1, kRead = 2, kRefresh = 3, kPrecharge = 5, kWrite = 6, kMode = 7 };

struct Times {
  uint32_t activate, precharge, refresh, write, between_refreshes;
};

class Sdram {
 public:
  explicit Sdram(const Times& times) : times_(times), words_(size_t{kBanks} * kRows * kColumns) {}

  // What is on the bus at the edge to come, if the chip drives it.
  uint16_t word(uint64_t edge) const {
    auto& slot = out_[edge % out_.size()];
    return slot.edge == edge ? slot.word : 0xDEAD;
  }

  void edge(uint64_t now, Vsystem& pins) {
    if (writing_ < kBurst) put(pins);
    int command = pins.sdram_command, bank = pins.sdram_ba, a = pins.sdram_a;
    bool driven = out_[now % out_.size()].edge == now;
    if (driven && pins.sdram_dq_oe) fail(now, "both sides drive the bus");
    if (command != kNop && now < free_) fail(now, "a command before the chip is ready");
    switch (command) {
      case kNop: break;
      case kActivate:
        if (open_[bank] >= 0) fail(now, "ACTIVATE of an open bank");
        open_[bank] = a;
        usable_[bank] = now + times_.activate;
        break;
      case kRead:
      case kWrite: {
        if (open_[bank] < 0 || now < usable_[bank]) fail(now, "no row is open");
        if (a >> 10 & 1) fail(now, "auto precharge");
        if (now < last_ + kBurst) fail(now, "a burst is cut");
        last_ = now;
        place_ = (size_t{static_cast<size_t>(bank)} * kRows + open_[bank]) * kColumns + (a & (kColumns - 1));
        if (command == kRead) {
          for (int n = 0; n < kBurst; ++n)
            out_[(now + kCasLatency + n) % out_.size()] = {now + kCasLatency + n, words_[burst(n)]};
          writing_ = kBurst;
        } else {
          writing_ = 0;
          put(pins);
          done_ = now + kBurst - 1 + times_.write;
        }
        break;
      }
      case kPrecharge:
        if (now < done_ || now < last_ + kBurst) fail(now, "PRECHARGE inside a burst");
        for (int n = 0; n < kBanks; ++n)
          if (n == bank || a >> 10 & 1) open_[n] = -1;
        free_ = now + times_.precharge;
        break;
      case kRefresh:
        for (int row : open_)
          if (row >= 0) fail(now, "REFRESH with an open row");
        if (started_ && now - refreshed_ > times_.between_refreshes) fail(now, "a late refresh");
        refreshed_ = now;
        free_ = now + times_.refresh;
        break;
      case kMode:
        started_ = true;
        if (a != (kCasLatency << 4 | 3)) fail(now, "another mode");
        free_ = now + 2;
        break;
      default: fail(now, "an unknown command");
    }
  }

  std::string fault;
  std::vector<uint16_t>& words() { return words_; }

 private:
  struct Slot {
    uint64_t edge = ~0ull;
    uint16_t word = 0;
  };

  size_t burst(int n) const { return (place_ & ~size_t{kBurst - 1}) | ((place_ + n) & (kBurst - 1)); }

  void put(Vsystem& pins) {
    uint16_t mask = (pins.sdram_dqm & 1 ? 0x00FF : 0) | (pins.sdram_dqm & 2 ? 0xFF00 : 0);
    uint16_t& word = words_[burst(writing_)];
    if (!pins.sdram_dq_oe) fail(0, "nothing on the bus in a WRITE");
    word = (word & mask) | (pins.sdram_dq_o & ~mask);
    ++writing_;
  }

  void fail(uint64_t now, const char* what) {
    if (fault.empty()) fault = "SDRAM, cycle " + std::to_string(now) + ": " + what;
  }

  Times times_;
  std::vector<uint16_t> words_;
  std::array<Slot, 16> out_{};
  std::array<int, kBanks> open_{-1, -1, -1, -1};
  std::array<uint64_t, kBanks> usable_{};
  uint64_t free_ = 0, last_ = 0, done_ = 0, refreshed_ = 0;
  size_t place_ = 0;
  int writing_ = kBurst;
  bool started_ = false;
};

class System {
 public:
  System(uint32_t divisor, const Times& times) : divisor_(divisor), sdram_(times) { top_.rx = 1; }
  ~System() { top_.final(); }

  // Runs `cycles`, and takes bytes of `in` while the line is free; fewer if something came out.
  uint32_t run(uint64_t cycles, const uint8_t* in, uint32_t count, uint8_t* out, uint32_t room, uint32_t* came) {
    uint32_t taken = 0;
    *came = 0;
    for (uint64_t n = 0; n < cycles && *came < room; ++n) {
      if (out_left_ == 0 && taken < count) {
        bits_ = 0x200u | in[taken++] << 1;
        out_left_ = 10 * divisor_;
      }
      if (out_left_) {
        top_.rx = bits_ & 1;
        if (--out_left_ % divisor_ == 0) bits_ >>= 1;
      } else {
        top_.rx = 1;
      }
      step();
      if (listening_ == 0) {
        if (!top_.tx) listening_ = divisor_ * 10 - divisor_ / 2, byte_ = 0;
      } else if (--listening_ % divisor_ == 0) {
        uint32_t place = listening_ / divisor_;  // 9: start, 8 to 1: data, 0: stop
        if (place <= 8 && place >= 1) byte_ |= top_.tx << (8 - place);
        if (place == 0) out[(*came)++] = byte_;
      }
    }
    return taken;
  }

  uint64_t cycle() const { return now_; }
  Sdram& sdram() { return sdram_; }

 private:
  void step() {
    top_.clk = 0;
    top_.eval();
    top_.sdram_dq_i = sdram_.word(now_);
    sdram_.edge(now_, top_);
    top_.clk = 1;
    top_.eval();
    ++now_;
  }

  Vsystem top_;
  uint32_t divisor_, bits_ = 0, out_left_ = 0, listening_ = 0;
  uint8_t byte_ = 0;
  Sdram sdram_;
  uint64_t now_ = 0;
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void* system_new(uint32_t divisor, const Times* times) { return new System(divisor, *times); }
EXPORT void system_delete(void* system) { delete static_cast<System*>(system); }
EXPORT uint32_t system_run(void* system, uint64_t cycles, const uint8_t* in, uint32_t count, uint8_t* out,
                           uint32_t room, uint32_t* came) {
  return static_cast<System*>(system)->run(cycles, in, count, out, room, came);
}
EXPORT uint64_t system_cycle(void* system) { return static_cast<System*>(system)->cycle(); }
EXPORT const char* system_fault(void* system) { return static_cast<System*>(system)->sdram().fault.c_str(); }
EXPORT uint8_t* system_memory(void* system) {
  return reinterpret_cast<uint8_t*>(static_cast<System*>(system)->sdram().words().data());
}
