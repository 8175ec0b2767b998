/* Driver of moevit's accelerator for hosts without Python.
 *
 * Three layers, as in the Python driver: a transport (registers, buffers by physical address, an
 * interrupt), the device (this file), and what the host makes of the integers. moevit_linux.c is
 * the transport of Linux with UIO and u-dma-buf; any other host fills in a struct of its own.
 *
 * Two slots hold an image and its outputs each: while the frame of one runs, moevit_put can bring
 * the next image into the other.
 *
 *     struct moevit_device device;
 *     if (moevit_open(&device, &transport, 2.0) || moevit_load(&device, &program) ||
 *         moevit_run(&device, image, entry)) puts(device.message);
 *     moevit_get(&device, 0, entry, 0, integers);
 */
#ifndef MOEVIT_H
#define MOEVIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moevit_registers.h"

#ifdef __cplusplus
extern "C" {
#endif

enum moevit_result {
  MOEVIT_OK = 0,
  MOEVIT_BAD_TRANSPORT = -1, /* a register access or a buffer's synchronisation failed */
  MOEVIT_BAD_IDENTITY = -2,  /* another bitstream, or a program of another configuration */
  MOEVIT_NO_ROOM = -3,       /* no buffer of that size, or none within the ports' reach */
  MOEVIT_FAILED = -4,        /* the hardware gave the frame up; see moevit_device.error */
  MOEVIT_TIME_OUT = -5,      /* the frame did not end in time and was cancelled */
  MOEVIT_BUSY = -6,          /* another process has the accelerator */
  MOEVIT_BAD_FILE = -7,      /* no program file, or a damaged one */
  MOEVIT_BAD_CALL = -8       /* no program, no such entry or slot, or a frame runs already */
};

struct moevit_buffer {
  uint8_t *data;    /* the host's view */
  uint64_t address; /* physical; a multiple of 64 at least */
  size_t bytes;
  uintptr_t handle; /* the transport's */
};

/* Functions return 0, or a moevit_result. */
struct moevit_transport {
  void *self;
  bool interrupt; /* whether wait ends when the accelerator's interrupt comes */
  uint64_t reach; /* end of the physical addresses that the memory ports reach; 0: 2^32 */
  int (*read)(void *self, uint32_t offset, uint32_t *value);
  int (*write)(void *self, uint32_t offset, uint32_t value);
  int (*allocate)(void *self, size_t bytes, struct moevit_buffer *buffer);
  void (*release)(void *self, struct moevit_buffer *buffer);
  int (*to_device)(void *self, struct moevit_buffer *buffer, size_t start, size_t bytes);
  int (*to_host)(void *self, struct moevit_buffer *buffer, size_t start, size_t bytes);
  int (*wait)(void *self, double seconds); /* 1 if the interrupt came */
  double (*now)(void *self);               /* seconds */
  int (*reset)(void *self);                /* as after configuration; NULL where impossible */
};

/* A program in the form that `moevit build` puts beside the C files (boards/c_form.py). */
struct moevit_program {
  struct moevit_program_head head;
  struct moevit_program_entry *entries;
  uint8_t *memory;
};

/* Fewer experts a token, for the frames started from then on; all 0: as compiled. Of it and the
 * program the stricter holds. `least` and `enough` are MIN_SCORE and TOP_P, 1.0 being 32768; to say
 * them in fractions: moevit_set_dial. */
struct moevit_dial {
  uint32_t top_k;  /* the most experts a token */
  uint32_t least;  /* no expert of a lower score */
  uint32_t enough; /* no expert behind those whose scores add up to that */
};

#define MOEVIT_SLOTS 2

struct moevit_device {
  struct moevit_transport *transport;
  const struct moevit_program *program;
  double time_out;
  uint64_t config_hash;
  uint32_t isa_version;
  uint32_t error;  /* the ERROR register of the last frame that failed */
  uint32_t cycles; /* of the last frame */
  unsigned resets;
  int running; /* the slot whose frame runs, or -1 */
  struct moevit_dial dial;
  struct moevit_buffer memory, image[MOEVIT_SLOTS], output[MOEVIT_SLOTS];
  char message[200]; /* what went wrong, in one line */
};

/* Reads a program file; release it with moevit_program_free. `message` has 200 bytes. */
int moevit_program_read(const char *path, struct moevit_program *program, char *message);
void moevit_program_free(struct moevit_program *program);
/* The number of the entry called `name`, or MOEVIT_BAD_CALL. Several entries may have one name:
 * the tasks of the frame of all tasks, which is called "all". */
int moevit_entry(const struct moevit_program *program, const char *name);

/* Identifies the accelerator and gives up what somebody else left running on it. */
int moevit_open(struct moevit_device *device, struct moevit_transport *transport, double time_out);
/* Puts a program, which must outlive the device, into memory. */
int moevit_load(struct moevit_device *device, const struct moevit_program *program);
void moevit_close(struct moevit_device *device);

/* An image, height x width x channels bytes, into a slot. */
int moevit_put(struct moevit_device *device, int slot, const uint8_t *image);
/* The dial of the frames started next, which may not ask for more than the program: experts by
 * falling score until their scores add up to `top_p` (above 0 to 1), only those of a score above
 * `min_score` (0 to below 1), `top_k` of them at most. A negative number, of `top_k` 0, leaves what
 * was compiled. */
int moevit_set_dial(struct moevit_device *device, double top_p, double min_score, int top_k);
/* Starts a frame of a slot, and waits for the one that runs. */
int moevit_start(struct moevit_device *device, int slot, int entry);
int moevit_wait(struct moevit_device *device);
/* The integers of an entry, rows x columns of item_bytes, from a slot whose frame is done. */
int moevit_get(struct moevit_device *device, int slot, int entry, void *integers);
/* All of it, in slot 0. */
int moevit_run(struct moevit_device *device, const uint8_t *image, int entry);

int moevit_cancel(struct moevit_device *device);
int moevit_reset(struct moevit_device *device);
/* Of the last frame, until the next START. */
int moevit_counter(struct moevit_device *device, enum moevit_counter counter, uint32_t *value);
const char *moevit_meaning(uint32_t error);

/* Linux with UIO and u-dma-buf: moevit_linux.c. The bitstream must be loaded. */
int moevit_linux_open(struct moevit_transport *transport, char *message);
void moevit_linux_close(struct moevit_transport *transport);

#ifdef __cplusplus
}
#endif
#endif
