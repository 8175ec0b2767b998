// The memory behind the accelerator's masters: one byte array, one shared data bus, its refresh,
// its latency, and the faults that a test injects.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace moevit {

enum Response : uint8_t { kOkay = 0, kSlaveError = 2, kDecodeError = 3 };

// Mirrored by `Parameters` in sim/native_library.py, field for field.
struct Parameters {
  uint64_t base;              // address of the first byte
  uint64_t size;              // bytes
  uint64_t read_latency;      // cycles from the AR handshake to the first R beat, at least 1
  uint64_t write_latency;     // cycles from the last W beat to B, at least 1
  double bytes_per_cycle;     // over all ports and both directions
  uint64_t refresh_period;    // cycles from refresh to refresh; 0 for none
  uint64_t refresh_cycles;    // cycles that one refresh blocks the data bus
  uint64_t outstanding;       // bursts that a port may have open in each direction
  double stall_probability;   // of withholding a ready, or a new valid, in a cycle
  uint64_t reorder;           // nonzero: bursts of different ids may overtake one another
  uint64_t seed;              // of stalls and reordering
};

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): any seed is good, and one word is the state.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t below(uint64_t n) { return next() % n; }

 private:
  uint64_t state_;
};

class Memory {
 public:
  explicit Memory(const Parameters& p)
      : parameters(p), bytes_(new uint8_t[p.size]()), random_(p.seed) {
    configure(p);
  }

  // New timing; the contents stay, so base and size must not change.
  void configure(const Parameters& p) {
    parameters = p;
    random_ = Random(p.seed);
    credit_ = 0;
    const double scaled = p.stall_probability * 4294967296.0;
    stall_below_ = scaled <= 0 ? 0 : std::min<uint64_t>(uint64_t(scaled), uint64_t{1} << 32);
  }

  bool holds(uint64_t address, uint64_t count) const {
    const uint64_t offset = address - parameters.base;
    return address >= parameters.base && offset <= parameters.size &&
           count <= parameters.size - offset;
  }

  uint8_t* at(uint64_t address) { return bytes_.get() + (address - parameters.base); }

  void inject(uint64_t address, uint64_t count, Response response) {
    faults_.push_back({address, address + count, response});
  }
  void clear_faults() { faults_.clear(); }

  Response response(uint64_t address, uint64_t count) const {
    if (!holds(address, count)) return kDecodeError;
    for (const Fault& fault : faults_)
      if (address < fault.end && fault.begin < address + count) return fault.response;
    return kOkay;
  }

  // Once a cycle, before the ports ask for the bus.
  void tick() {
    ++cycle_;
    const uint64_t period = parameters.refresh_period;
    refreshing_ = period && cycle_ % period < parameters.refresh_cycles;
    // An idle bus saves no bandwidth up, and one that gave more than it had owes the rest.
    if (!refreshing_)
      credit_ = std::min(credit_ + parameters.bytes_per_cycle, parameters.bytes_per_cycle);
  }

  bool bus_free() const { return !refreshing_ && credit_ > 0; }
  void take(size_t count) {
    credit_ -= double(count);
    ++beats_;
  }
  uint64_t beats() const { return beats_; }  // taken by all ports
  bool stall() { return stall_below_ && (random_.next() >> 32) < stall_below_; }
  uint64_t choose(uint64_t n) { return random_.below(n); }
  uint64_t cycle() const { return cycle_; }

  Parameters parameters;

 private:
  struct Fault {
    uint64_t begin, end;
    Response response;
  };
  std::unique_ptr<uint8_t[]> bytes_;
  std::vector<Fault> faults_;
  Random random_;
  uint64_t cycle_ = 0, beats_ = 0;
  uint64_t stall_below_ = 0;
  double credit_ = 0;
  bool refreshing_ = false;
};

}  // namespace moevit
