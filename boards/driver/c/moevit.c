#include "moevit.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POISON 0xA5        /* where no output was written */
#define SLICES 8           /* of a time-out; then STATUS is asked even if no interrupt came */
#define POLL_SECONDS 20e-6 /* between two looks at STATUS, without an interrupt */
#define ABORT_SECONDS 0.05
#define QUIET_CYCLES 3000 /* in which memory answers what is in flight (device.py) */

#define TRY(call)                  \
  do {                             \
    const int result_ = (call);    \
    if (result_) return result_;   \
  } while (0)

static int fail(struct moevit_device *d, int result, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(d->message, sizeof d->message, format, arguments);
  va_end(arguments);
  return result;
}

static int get(struct moevit_device *d, uint32_t offset, uint32_t *value) {
  if (d->transport->read(d->transport->self, offset, value))
    return fail(d, MOEVIT_BAD_TRANSPORT, "read of register 0x%" PRIx32 " failed", offset);
  return MOEVIT_OK;
}

static int set(struct moevit_device *d, uint32_t offset, uint32_t value) {
  if (d->transport->write(d->transport->self, offset, value))
    return fail(d, MOEVIT_BAD_TRANSPORT, "write to register 0x%" PRIx32 " failed", offset);
  return MOEVIT_OK;
}

static int identify(struct moevit_device *d) {
  uint32_t id, low, high;
  TRY(get(d, MOEVIT_ID, &id));
  if (id != MOEVIT_DEVICE_ID)
    return fail(d, MOEVIT_BAD_IDENTITY,
                "wrong bitstream: register ID reads 0x%08" PRIx32 ", expected 0x%08" PRIx32, id,
                (uint32_t)MOEVIT_DEVICE_ID);
  TRY(get(d, MOEVIT_VERSION, &d->isa_version));
  TRY(get(d, MOEVIT_HASH_LOW, &low));
  TRY(get(d, MOEVIT_HASH_HIGH, &high));
  d->config_hash = (uint64_t)high << 32 | low;
  return MOEVIT_OK;
}

static bool is_busy(uint32_t status) { return status >> MOEVIT_STATUS_BUSY & 1; }

static int configure_again(struct moevit_device *d) {
  const uint64_t before = d->config_hash;
  uint32_t status;
  if (!d->transport->reset || d->transport->reset(d->transport->self))
    return fail(d, MOEVIT_BAD_TRANSPORT, "the accelerator hangs and cannot be reset from here");
  ++d->resets;
  TRY(identify(d));
  if (d->config_hash != before)
    return fail(d, MOEVIT_BAD_IDENTITY, "another bitstream after the reset");
  TRY(get(d, MOEVIT_STATUS, &status));
  if (is_busy(status)) return fail(d, MOEVIT_BAD_TRANSPORT, "still busy after a reset");
  return set(d, MOEVIT_IRQ_ENABLE, d->transport->interrupt);
}

/* ABORT what runs; reset where that, or the memory, does not answer. */
static int make_idle(struct moevit_device *d) {
  struct moevit_transport *t = d->transport;
  uint32_t status, before, after;
  d->running = -1;
  TRY(get(d, MOEVIT_STATUS, &status));
  if (is_busy(status)) {
    const uint32_t cycles = MOEVIT_COUNTER_BASE + 4 * MOEVIT_COUNTER_CYCLES;
    TRY(get(d, cycles, &before));
    TRY(set(d, MOEVIT_CONTROL, 1u << MOEVIT_CONTROL_ABORT));
    const double deadline = t->now(t->self) + ABORT_SECONDS;
    for (;;) {
      TRY(get(d, MOEVIT_STATUS, &status));
      if (!is_busy(status)) break;
      if (t->now(t->self) >= deadline) return configure_again(d);
      t->wait(t->self, POLL_SECONDS);
    }
    TRY(get(d, cycles, &after));
    if (after - before > QUIET_CYCLES) return configure_again(d);
  }
  return set(d, MOEVIT_CONTROL, 1u << MOEVIT_CONTROL_CLEAR_IRQ);
}

int moevit_open(struct moevit_device *d, struct moevit_transport *transport, double time_out) {
  memset(d, 0, sizeof *d);
  d->transport = transport;
  d->time_out = time_out;
  d->running = -1;
  TRY(identify(d));
  return make_idle(d);
}

static void drop(struct moevit_device *d) {
  struct moevit_transport *t = d->transport;
  d->program = NULL;
  for (int slot = 0; slot < MOEVIT_SLOTS; ++slot) {
    if (d->image[slot].data) t->release(t->self, &d->image[slot]);
    if (d->output[slot].data) t->release(t->self, &d->output[slot]);
    d->image[slot].data = d->output[slot].data = NULL;
  }
  if (d->memory.data) t->release(t->self, &d->memory);
  d->memory.data = NULL;
}

void moevit_close(struct moevit_device *d) {
  if (d->running >= 0) make_idle(d);
  drop(d);
}

static int allocate(struct moevit_device *d, size_t bytes, const char *what,
                    struct moevit_buffer *buffer) {
  struct moevit_transport *t = d->transport;
  const uint64_t limit = (uint64_t)1 << 32;
  const uint64_t reach = t->reach && t->reach < limit ? t->reach : limit;
  if (t->allocate(t->self, bytes, buffer)) {
    buffer->data = NULL;
    return fail(d, MOEVIT_NO_ROOM, "no room for the %s: %zu contiguous bytes are wanted", what,
                bytes);
  }
  if (buffer->address % 64 || buffer->address + bytes > reach)
    return fail(d, MOEVIT_NO_ROOM,
                "the buffer of the %s at 0x%" PRIx64 " is beyond 0x%" PRIx64
                ", which the accelerator's ports do not reach",
                what, buffer->address, reach);
  return MOEVIT_OK;
}

static int take(struct moevit_device *d, const struct moevit_program *program) {
  const struct moevit_program_head *head = &program->head;
  struct moevit_transport *t = d->transport;
  const size_t image = (size_t)head->height * head->pitch;
  TRY(allocate(d, head->memory_bytes, "program", &d->memory));
  for (int slot = 0; slot < MOEVIT_SLOTS; ++slot) {
    TRY(allocate(d, image, "image", &d->image[slot]));
    TRY(allocate(d, head->output_bytes, "output", &d->output[slot]));
  }
  memcpy(d->memory.data, program->memory, head->memory_bytes);
  if (t->to_device(t->self, &d->memory, 0, head->memory_bytes))
    return fail(d, MOEVIT_BAD_TRANSPORT, "the program does not reach memory");
  return set(d, MOEVIT_IRQ_ENABLE, t->interrupt);
}

int moevit_load(struct moevit_device *d, const struct moevit_program *program) {
  if (program->head.config_hash != d->config_hash)
    return fail(d, MOEVIT_BAD_IDENTITY,
                "the program is for configuration %016" PRIx64 ", the bitstream is %016" PRIx64,
                program->head.config_hash, d->config_hash);
  TRY(make_idle(d));
  drop(d);
  const int result = take(d, program);
  if (result) {
    drop(d);
    return result;
  }
  d->program = program;
  d->dial = (struct moevit_dial){0, 0, 0}; /* another program, other limits */
  return MOEVIT_OK;
}

static int check(struct moevit_device *d, int slot, int entry) {
  if (!d->program) return fail(d, MOEVIT_BAD_CALL, "no program; load one first");
  if (slot < 0 || slot >= MOEVIT_SLOTS) return fail(d, MOEVIT_BAD_CALL, "no slot %d", slot);
  if (entry < 0 || (uint32_t)entry >= d->program->head.entries)
    return fail(d, MOEVIT_BAD_CALL, "no entry %d", entry);
  return MOEVIT_OK;
}

int moevit_put(struct moevit_device *d, int slot, const uint8_t *image) {
  struct moevit_transport *t = d->transport;
  TRY(check(d, slot, 0));
  if (slot == d->running) return fail(d, MOEVIT_BAD_CALL, "slot %d runs", slot);
  const struct moevit_program_head *head = &d->program->head;
  const size_t row = (size_t)head->width * head->channels;
  for (uint32_t y = 0; y < head->height; ++y) {
    uint8_t *to = d->image[slot].data + (size_t)y * head->pitch;
    memcpy(to, image + y * row, row);
    memset(to + row, 0, head->pitch - row);
  }
  if (t->to_device(t->self, &d->image[slot], 0, (size_t)head->height * head->pitch))
    return fail(d, MOEVIT_BAD_TRANSPORT, "the image does not reach memory");
  return MOEVIT_OK;
}

int moevit_set_dial(struct moevit_device *d, double top_p, double min_score, int top_k) {
  const uint32_t one = 1u << 15, never = 0xFFFF; /* scores (quant/dial.py) */
  struct moevit_dial dial = {0, 0, 0};
  TRY(check(d, 0, 0));
  const struct moevit_program_head *head = &d->program->head;
  if (top_k < 0 || top_k > 15) return fail(d, MOEVIT_BAD_CALL, "top_k %d, expected 1 to 15", top_k);
  if (!(min_score < 1)) return fail(d, MOEVIT_BAD_CALL, "min_score %g, expected below 1", min_score);
  if (!(top_p <= 1) || top_p == 0)
    return fail(d, MOEVIT_BAD_CALL, "top_p %g, expected above 0 to 1", top_p);
  dial.top_k = (uint32_t)top_k;
  if (min_score >= 0) dial.least = (uint32_t)(min_score * one) + 1;
  if (top_p > 0) {
    dial.enough = (uint32_t)(top_p * one);
    if (dial.enough < top_p * one) ++dial.enough;
    if (top_p == 1) dial.enough = never;
  }
  if (dial.least == one) dial.least = one - 1;
  if (dial.enough == one) dial.enough = one - 1;
  if (!head->top_k && (dial.top_k || dial.least || dial.enough))
    return fail(d, MOEVIT_BAD_CALL, "nothing in the program has experts");
  if (dial.top_k > head->top_k || (dial.least && dial.least < head->least) ||
      (head->enough && dial.enough > head->enough))
    return fail(d, MOEVIT_BAD_CALL,
                "the dial asks for more than the program: top_k up to %" PRIu32
                ", min_score from %g, top_p up to %g",
                head->top_k, (double)head->least / one,
                head->enough ? (double)head->enough / one : 1.0);
  d->dial = dial;
  return MOEVIT_OK;
}

int moevit_start(struct moevit_device *d, int slot, int entry) {
  struct moevit_transport *t = d->transport;
  TRY(check(d, slot, entry));
  if (d->running >= 0) return fail(d, MOEVIT_BAD_CALL, "slot %d runs", d->running);
  const uint32_t base = d->program->entries[entry].base;
  for (uint32_t n = 0; n < d->program->head.entries; ++n) { /* nothing may be left from before */
    const struct moevit_program_entry *e = &d->program->entries[n];
    if (e->base != base) continue;
    const size_t bytes = (size_t)e->rows * e->pitch;
    memset(d->output[slot].data + e->address, POISON, bytes);
    if (t->to_device(t->self, &d->output[slot], e->address, bytes))
      return fail(d, MOEVIT_BAD_TRANSPORT, "the output's buffer cannot be synchronised");
  }
  TRY(set(d, MOEVIT_PROGRAM_BASE, (uint32_t)d->memory.address + base));
  TRY(set(d, MOEVIT_IMAGE_BASE, (uint32_t)d->image[slot].address));
  TRY(set(d, MOEVIT_OUTPUT_BASE, (uint32_t)d->output[slot].address));
  TRY(set(d, MOEVIT_TOP_K, d->dial.top_k));
  TRY(set(d, MOEVIT_MIN_SCORE, d->dial.least));
  TRY(set(d, MOEVIT_TOP_P, d->dial.enough));
  TRY(set(d, MOEVIT_CONTROL, 1u << MOEVIT_CONTROL_START));
  d->running = slot;
  return MOEVIT_OK;
}

int moevit_wait(struct moevit_device *d) {
  struct moevit_transport *t = d->transport;
  uint32_t status;
  if (d->running < 0) return fail(d, MOEVIT_BAD_CALL, "no frame runs");
  const double deadline = t->now(t->self) + d->time_out;
  const double step = t->interrupt ? d->time_out / SLICES : POLL_SECONDS;
  for (;;) {
    TRY(get(d, MOEVIT_STATUS, &status));
    if (!is_busy(status)) break;
    if (t->now(t->self) >= deadline) {
      TRY(make_idle(d));
      return fail(d, MOEVIT_TIME_OUT, "a frame did not end within %g s and was cancelled",
                  d->time_out);
    }
    t->wait(t->self, step);
  }
  d->running = -1;
  if (status >> MOEVIT_STATUS_FAILED & 1) {
    TRY(get(d, MOEVIT_ERROR, &d->error));
    TRY(set(d, MOEVIT_CONTROL, 1u << MOEVIT_CONTROL_CLEAR_IRQ));
    if (d->error == MOEVIT_ERROR_HANG) TRY(configure_again(d)); /* answers may be under way */
    return fail(d, MOEVIT_FAILED, "%s (error %" PRIu32 ")", moevit_meaning(d->error), d->error);
  }
  if (!(status >> MOEVIT_STATUS_DONE & 1))
    return fail(d, MOEVIT_BAD_TRANSPORT, "the accelerator is idle and has no result");
  TRY(get(d, MOEVIT_COUNTER_BASE + 4 * MOEVIT_COUNTER_CYCLES, &d->cycles));
  return set(d, MOEVIT_CONTROL, 1u << MOEVIT_CONTROL_CLEAR_IRQ);
}

int moevit_get(struct moevit_device *d, int slot, int entry, void *integers) {
  struct moevit_transport *t = d->transport;
  TRY(check(d, slot, entry));
  if (slot == d->running) return fail(d, MOEVIT_BAD_CALL, "slot %d runs", slot);
  const struct moevit_program_entry *e = &d->program->entries[entry];
  const size_t row = (size_t)e->columns * e->item_bytes;
  if (t->to_host(t->self, &d->output[slot], e->address, (size_t)e->rows * e->pitch))
    return fail(d, MOEVIT_BAD_TRANSPORT, "the output cannot be read");
  for (uint32_t y = 0; y < e->rows; ++y)
    memcpy((uint8_t *)integers + y * row,
           d->output[slot].data + e->address + (size_t)y * e->pitch, row);
  return MOEVIT_OK;
}

int moevit_run(struct moevit_device *d, const uint8_t *image, int entry) {
  TRY(moevit_put(d, 0, image));
  TRY(moevit_start(d, 0, entry));
  return moevit_wait(d);
}

int moevit_cancel(struct moevit_device *d) { return make_idle(d); }

int moevit_reset(struct moevit_device *d) {
  TRY(make_idle(d));
  return configure_again(d);
}

int moevit_counter(struct moevit_device *d, enum moevit_counter counter, uint32_t *value) {
  return get(d, MOEVIT_COUNTER_BASE + 4 * (uint32_t)counter, value);
}

const char *moevit_meaning(uint32_t error) {
  static const char *const meaning[] = MOEVIT_MEANINGS;
  const uint32_t known = sizeof meaning / sizeof *meaning;
  return error < known && meaning[error] ? meaning[error] : "an unknown error";
}

/* Program files --------------------------------------------------------------------------- */
int moevit_entry(const struct moevit_program *program, const char *name) {
  for (uint32_t n = 0; n < program->head.entries; ++n)
    if (!strncmp(program->entries[n].name, name, sizeof program->entries[n].name)) return (int)n;
  return MOEVIT_BAD_CALL;
}

void moevit_program_free(struct moevit_program *program) {
  free(program->entries);
  free(program->memory);
  memset(program, 0, sizeof *program);
}

static uint32_t checksum(const uint8_t *bytes, size_t count) { /* CRC-32 of IEEE 802.3 */
  uint32_t sum = ~(uint32_t)0;
  for (size_t i = 0; i < count; ++i) {
    sum ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ (sum & 1 ? 0xEDB88320u : 0);
  }
  return ~sum;
}

static const char *contents(FILE *file, struct moevit_program *p) {
  struct moevit_program_head *head = &p->head;
  if (fread(head, sizeof *head, 1, file) != 1) return "is cut short";
  if (head->magic != MOEVIT_PROGRAM_MAGIC) return "is no program file";
  if (head->version != MOEVIT_PROGRAM_VERSION) return "is of another version";
  p->entries = calloc(head->entries, sizeof *p->entries);
  p->memory = malloc(head->memory_bytes);
  if (!p->entries || !p->memory) return "does not fit the host's memory";
  if (fread(p->entries, sizeof *p->entries, head->entries, file) != head->entries ||
      fread(p->memory, 1, head->memory_bytes, file) != head->memory_bytes)
    return "is cut short";
  if (checksum(p->memory, head->memory_bytes) != head->checksum) return "is damaged";
  return NULL;
}

int moevit_program_read(const char *path, struct moevit_program *program, char *message) {
  memset(program, 0, sizeof *program);
  FILE *file = fopen(path, "rb");
  const char *wrong = file ? contents(file, program) : "cannot be read";
  if (file) fclose(file);
  if (!wrong) return MOEVIT_OK;
  moevit_program_free(program);
  snprintf(message, 200, "%s: %s", path, wrong);
  return MOEVIT_BAD_FILE;
}
