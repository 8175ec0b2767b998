// What the accelerator does, as changes: of the words of the port `watch_events` in every cycle, of
// those of `watch_levels` and of the ports' counters every few cycles. Absent pins have no words.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "port.h"

namespace moevit {

// Mirrored by `CHANGE` in sim/native_library.py: from `cycle` on, `word` is `value`.
struct Change {
  uint64_t cycle;
  uint32_t word;
  uint32_t value;
};

// The counters of a port that are watched, in this order.
inline constexpr std::array kWatched = {kReadBytes, kReadWaits, kReadStalls, kWriteBytes,
                                        kWriteWaits};

#define MOEVIT_WATCHED(NAME, PIN)                                              \
  struct NAME {                                                                \
    template <class T>                                                         \
    static constexpr size_t words() {                                          \
      if constexpr (requires(T t) { t.PIN; })                                  \
        return (sizeof(T::PIN) + 3) / 4;                                       \
      else                                                                     \
        return 0;                                                              \
    }                                                                          \
    template <class T>                                                         \
    static void copy(const T& top, uint32_t* words) {                          \
      if constexpr (requires { top.PIN; }) std::memcpy(words, &top.PIN, sizeof(top.PIN)); \
    }                                                                          \
  };
MOEVIT_WATCHED(EventPins, watch_events)
MOEVIT_WATCHED(LevelPins, watch_levels)

template <class Top, size_t ports>
class Watch {
 public:
  static constexpr size_t events = EventPins::words<Top>();
  static constexpr size_t levels = LevelPins::words<Top>();
  static constexpr size_t words = events + levels + ports * kWatched.size();

  void start(uint64_t period) {
    period_ = period;
    first_ = true;
    changes_.clear();
  }
  void stop() { period_ = 0; }
  bool on() const { return period_ != 0; }
  const std::vector<Change>& changes() const { return changes_; }
  void clear() { changes_.clear(); }

  // The ports' counters are about to be cleared; those here run on.
  template <class Visit>
  void clearing(Visit visit) {
    size_t count = 0;
    visit([&](auto& port) {
      for (PortCounter counter : kWatched) cleared_[count++] += uint32_t(port.counters[counter]);
    });
  }

  // While the pins hold what the clock edge will find; `visit` goes through all ports.
  template <class Visit>
  void observe(const Top& top, uint64_t cycle, Visit visit) {
    std::array<uint32_t, words> now = last_;
    size_t count = events;
    EventPins::copy(top, now.data());
    if (cycle % period_ == 0 || first_) {
      LevelPins::copy(top, now.data() + events);
      count = events + levels;
      visit([&](auto& port) {
        for (PortCounter counter : kWatched) {
          now[count] = cleared_[count - events - levels] + uint32_t(port.counters[counter]);
          ++count;
        }
      });
    }
    for (size_t i = 0; i < count; ++i)
      if (first_ || now[i] != last_[i]) changes_.push_back({cycle, uint32_t(i), now[i]});
    first_ = false;
    last_ = now;
  }

 private:
  uint64_t period_ = 0;  // cycles between two looks at what is no event; 0: off
  bool first_ = true;
  std::array<uint32_t, words> last_{};
  std::array<uint32_t, ports * kWatched.size()> cleared_{};
  std::vector<Change> changes_;
};

}  // namespace moevit
