/* The simulated board (boards/simulated.py) as a transport of the C library. The socket's path is in
 * MOEVIT_SIMULATED; with MOEVIT_POLL the interrupt is not used. */
#define _DEFAULT_SOURCE
#include "simulated.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "operations.h"

struct board {
  int socket;
  double hz;
};

static int move(int file, void *bytes, size_t count, bool out) {
  for (char *at = bytes; count;) {
    const ssize_t n = out ? write(file, at, count) : read(file, at, count);
    if (n <= 0) return MOEVIT_BAD_TRANSPORT;
    at += n;
    count -= (size_t)n;
  }
  return 0;
}

static int ask(struct board *b, uint32_t what, uint64_t x, uint64_t y, uint8_t *take,
               uint8_t *give, uint64_t *value) {
  uint8_t request[20], answer[12];
  uint32_t status;
  memcpy(request, &what, 4);
  memcpy(request + 4, &x, 8);
  memcpy(request + 12, &y, 8);
  if (move(b->socket, request, 20, true)) return MOEVIT_BAD_TRANSPORT;
  if (take && move(b->socket, take, y, true)) return MOEVIT_BAD_TRANSPORT;
  if (move(b->socket, answer, 12, false)) return MOEVIT_BAD_TRANSPORT;
  memcpy(&status, answer, 4);
  memcpy(value, answer + 4, 8);
  if (status) { /* the text of an error */
    char text[400];
    if (*value > sizeof text || move(b->socket, text, *value, false)) return MOEVIT_BAD_TRANSPORT;
    return status == REPLY_NO_ROOM ? MOEVIT_NO_ROOM : MOEVIT_BAD_TRANSPORT;
  }
  return give ? move(b->socket, give, *value, false) : 0;
}

static int read_register(void *self, uint32_t offset, uint32_t *value) {
  uint64_t found = 0;
  const int result = ask(self, OPERATION_READ_REGISTER, offset, 0, NULL, NULL, &found);
  *value = (uint32_t)found;
  return result;
}

static int write_register(void *self, uint32_t offset, uint32_t value) {
  uint64_t ignored;
  return ask(self, OPERATION_WRITE_REGISTER, offset, value, NULL, NULL, &ignored);
}

static int allocate(void *self, size_t bytes, struct moevit_buffer *buffer) {
  const int result = ask(self, OPERATION_ALLOCATE, bytes, 0, NULL, NULL, &buffer->address);
  buffer->data = result ? NULL : calloc(1, bytes);
  buffer->bytes = bytes;
  return buffer->data ? 0 : MOEVIT_NO_ROOM;
}

static void release(void *self, struct moevit_buffer *buffer) {
  uint64_t ignored;
  ask(self, OPERATION_FREE, buffer->address, 0, NULL, NULL, &ignored);
  free(buffer->data);
}

static int to_device(void *self, struct moevit_buffer *buffer, size_t start, size_t bytes) {
  uint64_t ignored;
  return ask(self, OPERATION_WRITE, buffer->address + start, bytes, buffer->data + start, NULL,
             &ignored);
}

static int to_host(void *self, struct moevit_buffer *buffer, size_t start, size_t bytes) {
  uint64_t count;
  return ask(self, OPERATION_READ, buffer->address + start, bytes, NULL, buffer->data + start,
             &count);
}

static int wait_interrupt(void *self, double seconds) {
  struct board *b = self;
  uint64_t came = 0;
  ask(b, OPERATION_WAIT, (uint64_t)(seconds * b->hz) + 1, 0, NULL, NULL, &came);
  return (int)came;
}

static double now(void *self) {
  struct board *b = self;
  uint64_t cycle = 0;
  ask(b, OPERATION_CYCLE, 0, 0, NULL, NULL, &cycle);
  return (double)cycle / b->hz;
}

static int reset(void *self) {
  uint64_t ignored;
  return ask(self, OPERATION_RESET, 0, 0, NULL, NULL, &ignored);
}

int simulated_open(struct moevit_transport *t, char *message) {
  struct board *b = calloc(1, sizeof *b);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *path = getenv("MOEVIT_SIMULATED");
  uint8_t about[200] = {0};
  uint64_t count;
  snprintf(message, 200, "no simulated board");
  if (!b || !path) return MOEVIT_BAD_TRANSPORT;
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  b->socket = socket(AF_UNIX, SOCK_STREAM, 0);
  if (connect(b->socket, (struct sockaddr *)&address, sizeof address) ||
      ask(b, OPERATION_ABOUT, 0, 0, NULL, about, &count))
    return MOEVIT_BAD_TRANSPORT;
  b->hz = 1e6 * strtod(strchr((char *)about, ':') + 1, NULL);
  *t = (struct moevit_transport){
      .self = b,
      .interrupt = !getenv("MOEVIT_POLL"),
      .read = read_register,
      .write = write_register,
      .allocate = allocate,
      .release = release,
      .to_device = to_device,
      .to_host = to_host,
      .wait = wait_interrupt,
      .now = now,
      .reset = reset,
  };
  return 0;
}

void simulated_close(struct moevit_transport *t) {
  struct board *b = t->self;
  close(b->socket);
  free(b);
}
