/* script PROGRAM IMAGES: what stands on standard input, a command a line; an answer a line. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simulated.h"

static struct moevit_device device;

static void answer(int result) { printf("%d %s\n", result, result ? device.message : ""); }

static void print(const struct moevit_program_entry *e, int slot, int entry) {
  const size_t bytes = (size_t)e->rows * e->columns * e->item_bytes;
  uint8_t *integers = malloc(bytes);
  const int result = moevit_get(&device, slot, entry, integers);
  if (result) {
    answer(result);
  } else {
    for (size_t i = 0; i < bytes; ++i) printf("%02x", integers[i]);
    printf("\n");
  }
  free(integers);
}

int main(int count, char **arguments) {
  struct moevit_transport transport;
  struct moevit_program program;
  char message[200], line[100], word[20];
  if (count != 3 || simulated_open(&transport, message)) return 1;
  if (moevit_program_read(arguments[1], &program, message)) {
    printf("%s\n", message);
    return 1;
  }
  const size_t pixels =
      (size_t)program.head.height * program.head.width * program.head.channels;
  uint8_t *images = malloc(8 * pixels);
  FILE *file = fopen(arguments[2], "rb");
  if (!file || !fread(images, pixels, 1, file)) return 1;
  if (fread(images + pixels, pixels, 7, file) > 7) return 1;
  fclose(file);
  while (fgets(line, sizeof line, stdin)) {
    int a = 0, b = 0;
    double seconds = 0, score = 0;
    if (sscanf(line, "%19s %d %d", word, &a, &b) < 1) break;
    if (!strcmp(word, "open") && sscanf(line, "open %lf", &seconds) == 1)
      answer(moevit_open(&device, &transport, seconds));
    else if (!strcmp(word, "dial") && sscanf(line, "dial %lf %lf %d", &seconds, &score, &a) == 3)
      answer(moevit_set_dial(&device, seconds, score, a));
    else if (!strcmp(word, "load")) answer(moevit_load(&device, &program));
    else if (!strcmp(word, "put")) answer(moevit_put(&device, a, images + (size_t)b * pixels));
    else if (!strcmp(word, "start")) answer(moevit_start(&device, a, b));
    else if (!strcmp(word, "wait")) answer(moevit_wait(&device));
    else if (!strcmp(word, "run")) answer(moevit_run(&device, images + (size_t)b * pixels, a));
    else if (!strcmp(word, "get")) print(&program.entries[b], a, b);
    else if (!strcmp(word, "cancel")) answer(moevit_cancel(&device));
    else if (!strcmp(word, "reset")) answer(moevit_reset(&device));
    else if (!strcmp(word, "resets")) printf("%u\n", device.resets);
    else if (!strcmp(word, "close")) moevit_close(&device), answer(0);
    else break;
    fflush(stdout);
  }
  simulated_close(&transport);
  moevit_program_free(&program);
  free(images);
  return 0;
}
