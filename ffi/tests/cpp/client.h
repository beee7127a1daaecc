/* The WebSocket client of the C tests, for programs in C++; it is compiled as C. */
#ifndef CLIENT_H
#define CLIENT_H

#include <klatch.h>

#ifdef __cplusplus
extern "C" {
#endif

struct client;

/* Connects with this query. */
struct client *client_new(klatch_engine_t *engine, const char *query);
/* Reads frames until one has this in it, which lives until the next. */
const char *client_awaits(struct client *client, const char *part);
void client_says(struct client *client, const char *text);
void client_free(struct client *client);

#ifdef __cplusplus
}
#endif

#endif
