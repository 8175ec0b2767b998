#include "moevit.h"

int simulated_open(struct moevit_transport *transport, char *message);
void simulated_close(struct moevit_transport *transport);
