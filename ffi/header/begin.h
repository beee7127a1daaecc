/*
 * klatch.h: a chat engine in your program. Rooms, a WebSocket server, and a durable, ordered message log.
 *
 * Generated from the sources of the library; not to be edited. docs/guarantees.md says what may be relied on, docs/protocol.md how clients
 * talk to the engine, docs/configuration.md what can be set, docs/codes.md what the codes mean.
 *
 *
 * GETTING STARTED
 *
 * A whole program. It is built with `cc chat.c $(pkg-config --cflags --libs klatch)`.
 *
@STORY@
 *
 * From there: hooks decide who may connect, join and publish (klatch_builder_on_connect() and its neighbours); events tell who came and
 * went (klatch_engine_next_event()); a subscription reads a room (klatch_engine_subscribe()).
 *
 *
 * OWNERSHIP
 *
 * Objects are opaque. Each function says of its pointers that it
 *   borrows   what stays the caller's, and is not used after the call has returned,
 *   takes     what is the library's from then on, also if the call fails, or
 *   gives     what is the caller's from then on, until it is freed with the function named. It is NULL if the call failed.
 * Pointers to what is inside an object live as long as that object. What a callback gets is borrowed until it returns. Every _free function
 * takes NULL. Objects that were made of an engine may be freed before or after it, in any order.
 *
 * Texts and data go in and out as klatch_str_t and klatch_bytes_t, a pointer and a length. Texts that come out have a NUL behind them, and
 * are never NULL. Times are in milliseconds, sizes in bytes.
 *
 *
 * ERRORS
 *
 * What can fail returns klatch_error_t *, NULL for success. Whoever ignores one is warned by the compiler, and leaks it. A pointer that must
 * not be NULL is bad_request if it is; a number out of range, a text that is not UTF-8, a length that no limit allows, a call in the wrong
 * order: each is an error, and no more. A handle of an engine, builder, batch, subscription, request or consumer that has been freed is
 * `stopped`, also if another thread frees it meanwhile. Using any other object after it was freed is not detected. A fault inside is
 * `internal`, and the engine lives on. What the library has to say for an operator goes to klatch_log_set(); it never prints.
 *
 *
 * THREADS
 *
 *   callback                           runs on                                  at once   may take time    may wait for the engine
 *   klatch_hook_fn                     one of four threads for hooks            4         yes              yes
 *   klatch_event_fn                    a thread that the engine's callbacks     1         yes, events      yes
 *   klatch_publications_fn               share                                              queue up
 *   klatch_published_fn                the thread that stores messages, or      1 each    no               no: would_deadlock
 *                                        the one that published
 *   klatch_handler_fn                  the consumer's own threads               as set    yes              yes
 *   klatch_log_fn                      a thread of its own                      1         yes              yes
 *
 * Every function may be called from any thread, at the same time, and in every callback, if it does not say otherwise. Builders, batches and
 * other objects that say so are for one thread at a time. Objects that were given (errors, acks, events, pages) may be read by several. Do
 * not hold a lock while you free something whose callback takes that lock. A callback must not throw, longjmp, or end its thread.
 *
 * A callback is registered as a function, user_data, which is its first argument, and free_user_data, which may be NULL. It is not called once
 * the call that ends it has returned (it may be while that runs), and free_user_data is called exactly once, after the last call, also if the
 * registration fails.
 *
 * The library starts threads at klatch_builder_start(), klatch_log_set() and where callbacks or consumers are registered, and none when it is
 * loaded. It sets no signal handler, no locale and no limit of the process, raises no SIGPIPE, and never prints. After fork() the child must
 * not use it.
 *
 *
 * SHUTDOWN
 *
 *   1. Stop what publishes: your own threads.
 *   2. klatch_engine_stop(engine, timeout_ms, NULL): stores what is queued, tells clients to come back, closes the files.
 *   3. Read what events are left, if you care, until `stopped`.
 *   4. klatch_engine_free(engine). From here on nothing of yours is called.
 *   5. klatch_log_set(KLATCH_LOG_ERROR, NULL, NULL, NULL), if you had set a log: the last lines are told, then its thread ends.
 * klatch_engine_free() alone does 2 too, with one second. A process that simply ends loses no message that was acknowledged.
 */

#ifndef KLATCH_H
#define KLATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The result must be looked at. */
#ifndef KLATCH_MUST_USE
#if defined(__GNUC__)
#define KLATCH_MUST_USE __attribute__((warn_unused_result))
#else
#define KLATCH_MUST_USE
#endif
#endif

/* Before every declaration, for builds that need something there. */
#ifndef KLATCH_API
#define KLATCH_API
#endif

#ifdef __cplusplus
extern "C" {
#endif
