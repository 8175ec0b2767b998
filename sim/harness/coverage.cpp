// Beside harness.cpp in simulators that count what ran (moevit.sim.build, coverage).
#include "verilated.h"
#include "verilated_cov.h"

// The counters of the simulation that was made last in this thread, to a file.
extern "C" __attribute__((visibility("default"))) void moevit_write_coverage(const char* path) {
  Verilated::threadContextp()->coveragep()->write(path);
}
