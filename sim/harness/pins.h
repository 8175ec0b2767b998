// Access to the pins of the verilated top by name, whatever their widths and wherever absent.
//
// Every accessor is a template on the type of the top, so that a pin which the top does not have
// (an AXI id, say) is a constant instead of a compile error. A verilated pin is CData, SData,
// IData, QData or VlWide<N>; all are little-endian byte arrays on the machines we build for.
#pragma once

#include <cstdint>
#include <cstring>

namespace moevit {

template <class To, class From>
inline void assign(To& to, From value) {
  to = static_cast<To>(value);
}

template <class Pin>
inline void assign_bytes(Pin& pin, const void* bytes) {
  std::memcpy(&pin, bytes, sizeof(Pin));
}

template <class Pin>
inline void copy_bytes(void* bytes, const Pin& pin) {
  std::memcpy(bytes, &pin, sizeof(Pin));
}

#define MOEVIT_GET(METHOD, PIN, ABSENT)              \
  template <class T>                                 \
  static inline uint64_t METHOD(const T& top) {      \
    if constexpr (requires { top.PIN; })             \
      return static_cast<uint64_t>(top.PIN);         \
    else                                             \
      return ABSENT;                                 \
  }

#define MOEVIT_SET(METHOD, PIN)                      \
  template <class T>                                 \
  static inline void METHOD(T& top, uint64_t value) { \
    if constexpr (requires { top.PIN; }) assign(top.PIN, value); \
  }

// The pins of one AXI4 master of the top, whose names begin with PREFIX. A master may have only
// the read or only the write channels.
#define MOEVIT_MASTER_PINS(NAME, PREFIX)                                        \
  struct NAME {                                                                 \
    static constexpr const char* name = #PREFIX;                                \
    template <class T>                                                          \
    static constexpr bool reads() {                                             \
      return requires(T t) { t.PREFIX##_arvalid; };                             \
    }                                                                           \
    template <class T>                                                          \
    static constexpr bool writes() {                                            \
      return requires(T t) { t.PREFIX##_awvalid; };                             \
    }                                                                           \
    template <class T>                                                          \
    static constexpr size_t beat_bytes() {                                      \
      if constexpr (requires(T t) { t.PREFIX##_rdata; })                        \
        return sizeof(T::PREFIX##_rdata);                                       \
      else                                                                      \
        return sizeof(T::PREFIX##_wdata);                                       \
    }                                                                           \
    static constexpr uint64_t full = ~uint64_t{0};                              \
    MOEVIT_GET(arvalid, PREFIX##_arvalid, 0)                                    \
    MOEVIT_GET(araddr, PREFIX##_araddr, 0)                                      \
    MOEVIT_GET(arlen, PREFIX##_arlen, 0)                                        \
    MOEVIT_GET(arid, PREFIX##_arid, 0)                                          \
    MOEVIT_GET(arsize, PREFIX##_arsize, full)                                   \
    MOEVIT_GET(arburst, PREFIX##_arburst, 1)                                    \
    MOEVIT_GET(rready, PREFIX##_rready, 1)                                      \
    MOEVIT_SET(arready, PREFIX##_arready)                                       \
    MOEVIT_SET(rvalid, PREFIX##_rvalid)                                         \
    MOEVIT_SET(rid, PREFIX##_rid)                                               \
    MOEVIT_SET(rresp, PREFIX##_rresp)                                           \
    MOEVIT_SET(rlast, PREFIX##_rlast)                                           \
    MOEVIT_GET(awvalid, PREFIX##_awvalid, 0)                                    \
    MOEVIT_GET(awaddr, PREFIX##_awaddr, 0)                                      \
    MOEVIT_GET(awlen, PREFIX##_awlen, 0)                                        \
    MOEVIT_GET(awid, PREFIX##_awid, 0)                                          \
    MOEVIT_GET(awsize, PREFIX##_awsize, full)                                   \
    MOEVIT_GET(awburst, PREFIX##_awburst, 1)                                    \
    MOEVIT_GET(wvalid, PREFIX##_wvalid, 0)                                      \
    MOEVIT_GET(wlast, PREFIX##_wlast, 0)                                        \
    MOEVIT_GET(wstrb, PREFIX##_wstrb, full)                                     \
    MOEVIT_GET(bready, PREFIX##_bready, 1)                                      \
    MOEVIT_SET(awready, PREFIX##_awready)                                       \
    MOEVIT_SET(wready, PREFIX##_wready)                                         \
    MOEVIT_SET(bvalid, PREFIX##_bvalid)                                         \
    MOEVIT_SET(bid, PREFIX##_bid)                                               \
    MOEVIT_SET(bresp, PREFIX##_bresp)                                           \
    template <class T>                                                          \
    static inline void rdata(T& top, const void* bytes) {                       \
      if constexpr (requires { top.PREFIX##_rdata; })                           \
        assign_bytes(top.PREFIX##_rdata, bytes);                                \
    }                                                                           \
    template <class T>                                                          \
    static inline void wdata(const T& top, void* bytes) {                       \
      if constexpr (requires { top.PREFIX##_wdata; })                           \
        copy_bytes(bytes, top.PREFIX##_wdata);                                  \
    }                                                                           \
  };

// The control port: AXI4-Lite with 32-bit data, and the interrupt.
struct ControlPins {
  template <class T>
  static constexpr bool present() {
    return requires(T t) { t.s_axil_awvalid; };
  }
  MOEVIT_GET(irq, irq, 0)
  MOEVIT_SET(awvalid, s_axil_awvalid)
  MOEVIT_SET(awaddr, s_axil_awaddr)
  MOEVIT_GET(awready, s_axil_awready, 0)
  MOEVIT_SET(wvalid, s_axil_wvalid)
  MOEVIT_SET(wdata, s_axil_wdata)
  MOEVIT_SET(wstrb, s_axil_wstrb)
  MOEVIT_GET(wready, s_axil_wready, 0)
  MOEVIT_GET(bvalid, s_axil_bvalid, 0)
  MOEVIT_GET(bresp, s_axil_bresp, 0)
  MOEVIT_SET(bready, s_axil_bready)
  MOEVIT_SET(arvalid, s_axil_arvalid)
  MOEVIT_SET(araddr, s_axil_araddr)
  MOEVIT_GET(arready, s_axil_arready, 0)
  MOEVIT_GET(rvalid, s_axil_rvalid, 0)
  MOEVIT_GET(rdata, s_axil_rdata, 0)
  MOEVIT_GET(rresp, s_axil_rresp, 0)
  MOEVIT_SET(rready, s_axil_rready)
};

}  // namespace moevit
