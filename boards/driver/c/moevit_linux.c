/* Linux as a transport: a UIO device called "moevit" and a buffer of u-dma-buf (linux.py). */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "moevit.h"

#define UIO "/sys/class/uio"
#define DMA "/sys/class/u-dma-buf"
#define PAGE 4096u
#define TO_DEVICE 1
#define FROM_DEVICE 2

struct board {
  int uio, dma;
  volatile uint32_t *registers;
  size_t register_bytes;
  uint8_t *memory;
  uint64_t address;
  size_t bytes, used;
  bool coherent;
  char folder[300];
};

static bool read_line(const char *path, char *line, int room) {
  FILE *file = fopen(path, "r");
  if (!file) return false;
  const bool found = fgets(line, room, file) != NULL;
  fclose(file);
  if (found) line[strcspn(line, "\n")] = 0;
  return found;
}

static uint64_t number(const char *folder, const char *name) {
  char path[512], line[64];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return read_line(path, line, sizeof line) ? strtoull(line, NULL, 0) : 0;
}

static int read_register(void *self, uint32_t offset, uint32_t *value) {
  *value = ((struct board *)self)->registers[offset / 4];
  return 0;
}

static int write_register(void *self, uint32_t offset, uint32_t value) {
  ((struct board *)self)->registers[offset / 4] = value;
  return 0;
}

/* Pieces are given one after the other; all of them come back together. */
static int allocate(void *self, size_t bytes, struct moevit_buffer *buffer) {
  struct board *b = self;
  if (b->bytes - b->used < bytes) return MOEVIT_NO_ROOM;
  buffer->data = b->memory + b->used;
  buffer->address = b->address + b->used;
  buffer->bytes = bytes;
  buffer->handle = b->used;
  b->used += (bytes + PAGE - 1) / PAGE * PAGE;
  if (b->used > b->bytes) b->used = b->bytes;
  return 0;
}

static void release(void *self, struct moevit_buffer *buffer) {
  struct board *b = self;
  if (buffer->handle < b->used) b->used = buffer->handle;
}

static int synchronise(struct board *b, const char *name, unsigned direction, size_t at,
                       size_t bytes) {
  if (b->coherent || !bytes) return 0;
  const uint64_t first = at & ~(size_t)63, last = (at + bytes + 63) & ~(size_t)63;
  char path[512];
  snprintf(path, sizeof path, "%s/%s", b->folder, name);
  FILE *file = fopen(path, "w");
  if (!file) return MOEVIT_BAD_TRANSPORT;
  fprintf(file, "0x%016" PRIx64, first << 32 | (last - first) | direction << 2 | 1);
  return fclose(file) ? MOEVIT_BAD_TRANSPORT : 0;
}

static int to_device(void *self, struct moevit_buffer *buffer, size_t start, size_t bytes) {
  return synchronise(self, "sync_for_device", TO_DEVICE, buffer->handle + start, bytes);
}

static int to_host(void *self, struct moevit_buffer *buffer, size_t start, size_t bytes) {
  return synchronise(self, "sync_for_cpu", FROM_DEVICE, buffer->handle + start, bytes);
}

static int wait_interrupt(void *self, double seconds) {
  struct board *b = self;
  const uint32_t unmask = 1;
  uint32_t count;
  if (write(b->uio, &unmask, sizeof unmask) != sizeof unmask) return 0;
  struct pollfd ready = {.fd = b->uio, .events = POLLIN};
  const int milliseconds = (int)(seconds * 1e3) + 1;
  return poll(&ready, 1, milliseconds) == 1 &&
         read(b->uio, &count, sizeof count) == (ssize_t)sizeof count;
}

static double now(void *self) {
  struct timespec time;
  (void)self;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The entry of a class whose `attribute` is `value`. Where that is NULL, any entry, and one whose name
 * begins with "moevit" before all others. */
static bool find(const char *class, const char *attribute, const char *value, char *found) {
  DIR *folder = opendir(class);
  bool there = false, any = false;
  if (!folder) return false;
  for (struct dirent *entry; !there && (entry = readdir(folder));) {
    char path[512], line[64];
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "%s/%.100s/%s", class, entry->d_name, attribute);
    if (!read_line(path, line, sizeof line) || (value && strcmp(line, value))) continue;
    there = value || !strncmp(entry->d_name, "moevit", 6);
    if (there || !any) snprintf(found, 128, "%.100s", entry->d_name);
    any = true;
  }
  closedir(folder);
  return any;
}

static int complain(char *message, int result, const char *text) {
  snprintf(message, 200, "%s", text);
  return result;
}

static int attach(struct board *b, char *message) {
  char name[128], path[400];
  if (!find(UIO, "name", "moevit", name))
    return complain(message, MOEVIT_BAD_TRANSPORT, "no UIO device moevit: load the bitstream");
  snprintf(path, sizeof path, "/dev/%s", name);
  b->uio = open(path, O_RDWR | O_CLOEXEC);
  if (b->uio < 0) return complain(message, MOEVIT_BAD_TRANSPORT, "/dev/uio: run as root");
  if (flock(b->uio, LOCK_EX | LOCK_NB))
    return complain(message, MOEVIT_BUSY, "the accelerator is driven by another process");
  snprintf(path, sizeof path, UIO "/%s/maps/map0", name);
  b->register_bytes = number(path, "size");
  void *at = mmap(NULL, b->register_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, b->uio, 0);
  if (at == MAP_FAILED) return complain(message, MOEVIT_BAD_TRANSPORT, "UIO cannot be mapped");
  b->registers = at;

  if (!find(DMA, "size", NULL, name))
    return complain(message, MOEVIT_NO_ROOM, "no u-dma-buf: load its module");
  snprintf(b->folder, sizeof b->folder, DMA "/%s", name);
  b->bytes = number(b->folder, "size");
  b->address = number(b->folder, "phys_addr");
  b->coherent = number(b->folder, "dma_coherent") == 1;
  snprintf(path, sizeof path, "/dev/%s", name);
  b->dma = open(path, O_RDWR | O_CLOEXEC);
  at = b->dma < 0 ? MAP_FAILED
                  : mmap(NULL, b->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, b->dma, 0);
  if (at == MAP_FAILED) return complain(message, MOEVIT_NO_ROOM, "u-dma-buf cannot be mapped");
  b->memory = at;
  return MOEVIT_OK;
}

int moevit_linux_open(struct moevit_transport *transport, char *message) {
  struct board *b = calloc(1, sizeof *b);
  if (!b) return complain(message, MOEVIT_NO_ROOM, "no memory");
  b->uio = b->dma = -1;
  *transport = (struct moevit_transport){
      .self = b,
      .interrupt = true,
      .read = read_register,
      .write = write_register,
      .allocate = allocate,
      .release = release,
      .to_device = to_device,
      .to_host = to_host,
      .wait = wait_interrupt,
      .now = now,
  };
  const int result = attach(b, message);
  if (result) moevit_linux_close(transport);
  return result;
}

void moevit_linux_close(struct moevit_transport *transport) {
  struct board *b = transport->self;
  if (b->registers) munmap((void *)(uintptr_t)b->registers, b->register_bytes);
  if (b->memory) munmap(b->memory, b->bytes);
  if (b->dma >= 0) close(b->dma);
  if (b->uio >= 0) close(b->uio);
  free(b);
  transport->self = NULL;
}
