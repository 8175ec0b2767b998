/* moevit_run PROGRAM.mvp TASK IMAGE OUTPUT: one frame on this board.
 * IMAGE: height x width x channels bytes. OUTPUT: rows x columns integers, little endian. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "moevit.h"

#ifndef MOEVIT_TRANSPORT_OPEN
#define MOEVIT_TRANSPORT_OPEN moevit_linux_open
#define MOEVIT_TRANSPORT_CLOSE moevit_linux_close
#endif

static int run(struct moevit_transport *t, const struct moevit_program *p, char **arguments,
               char *message) {
  const struct moevit_program_head *head = &p->head;
  const int entry = moevit_entry(p, arguments[2]);
  if (entry < 0) {
    snprintf(message, 200, "%.60s: no task %.60s", arguments[1], arguments[2]);
    return 2;
  }
  const struct moevit_program_entry *e = &p->entries[entry];
  const size_t pixels = (size_t)head->height * head->width * head->channels;
  const size_t bytes = (size_t)e->rows * e->columns * e->item_bytes;
  uint8_t *image = malloc(pixels), *integers = malloc(bytes);
  FILE *in = fopen(arguments[3], "rb"), *out = NULL;
  struct moevit_device d;
  int status = 2;
  if (!image || !integers || !in || fread(image, 1, pixels, in) != pixels) {
    snprintf(message, 200, "%.80s: expected %zu bytes", arguments[3], pixels);
  } else {
    int result = moevit_open(&d, t, 2.0);
    if (!result) result = moevit_load(&d, p);
    if (!result) result = moevit_run(&d, image, entry);
    if (!result) result = moevit_get(&d, 0, entry, integers);
    moevit_close(&d);
    status = result ? 1 : 0;
    if (result) snprintf(message, 200, "%s", d.message);
  }
  if (!status) {
    out = fopen(arguments[4], "wb");
    if (!out || fwrite(integers, 1, bytes, out) != bytes || fclose(out)) {
      snprintf(message, 200, "%.80s: cannot be written", arguments[4]);
      status = 2;
    } else {
      printf("%s: %" PRIu32 " x %" PRIu32 " integers, %" PRIu32 " cycles\n", arguments[2], e->rows,
             e->columns, d.cycles);
    }
  }
  if (in) fclose(in);
  free(image);
  free(integers);
  return status;
}

int main(int count, char **arguments) {
  struct moevit_transport t;
  struct moevit_program p;
  char message[200] = "usage: moevit_run PROGRAM.mvp TASK IMAGE OUTPUT";
  int status = 2;
  if (count == 5 && !moevit_program_read(arguments[1], &p, message)) {
    if (MOEVIT_TRANSPORT_OPEN(&t, message)) {
      status = 1;
    } else {
      status = run(&t, &p, arguments, message);
      MOEVIT_TRANSPORT_CLOSE(&t);
    }
    moevit_program_free(&p);
  }
  if (status) fprintf(stderr, "moevit_run: error: %s\n", message);
  return status;
}
