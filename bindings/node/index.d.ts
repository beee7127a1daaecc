/**
 * klatch in a Node program: rooms, a WebSocket server and a durable, ordered message log.
 *
 * ```js
 * const { Engine } = require("klatch");
 *
 * const engine = await Engine.start({ log: "chat-data", listen: "127.0.0.1:8080" });
 * await engine.publish("lobby", { text: "hello" });
 * for await (const publication of engine.subscribe("lobby", { history: 10 })) {
 *   console.log(publication.user, publication.data);
 * }
 * ```
 *
 * docs/node.md is the guide.
 */

import { EventEmitter } from "node:events";
import type { Server as HttpServer } from "node:http";
import type { Server as HttpsServer } from "node:https";

/** A place in a room's stream: a number, or, where a number would be rounded, a bigint. Both compare with each other. */
export type Offset = number | bigint;

/** A place in a room's stream, and which incarnation of the stream it is of. */
export interface Position {
  readonly epoch: string;
  /** The offset of the last publication seen. */
  readonly offset: Offset;
}

/** Settings and hooks of an engine. The names that are not listed here are those of docs/configuration.md, tables as objects. */
export interface EngineOptions {
  /** Where messages are kept: a directory, `memory`, or `kafka://host:port/topic`. */
  log?: string;
  /** Addresses to listen on; port 0 picks a free one. None: no listener. */
  listen?: string | readonly string[];
  /** The HTML page at `/`. */
  page?: string;
  /** Whether clients may name their own user while there is no `onConnect`. */
  open_users?: boolean;
  /** Origins that browsers may connect from. */
  origins?: readonly string[];
  shards?: number;
  dedupe_window_ms?: number;
  storage?: Table;
  view?: Table;
  kafka?: Table & { properties?: Readonly<Record<string, string>> };
  limits?: Readonly<Record<string, number>>;
  /** Decides who may connect, and as which user. */
  onConnect?: ConnectHook;
  /** Decides who may join a room. */
  onJoin?: JoinHook;
  /** Decides what clients may publish. What the program publishes itself does not pass through it. */
  onPublish?: PublishHook;
}

/** A table of settings. */
export type Table = { readonly [name: string]: string | number | boolean | Readonly<Record<string, string>> };

// Hooks.

/** A connection that asks to be let in. */
export interface ConnectRequest {
  /** The connection's id, as in its welcome. */
  readonly connection: string;
  /** The user that the client claims to be; empty if none. */
  readonly user: string;
  /** The client's token; empty if none. */
  readonly token: string;
  /** The client's address, as `host:port`. */
  readonly address: string;
}

/** A connection that asks to join a room. */
export interface JoinRequest {
  /** The connection's id. */
  readonly connection: string;
  /** Its user; empty for an anonymous one. */
  readonly user: string;
  /** The room. */
  readonly room: string;
}

/** A message that a client publishes. */
export interface PublishRequest {
  /** The connection's id. */
  readonly connection: string;
  /** Its user; empty for an anonymous one. */
  readonly user: string;
  /** The room. */
  readonly room: string;
  /** The message id as the client gave it; empty if it gave none. */
  readonly id: string;
  /** Whether the data is bytes; else it is JSON. */
  readonly isBytes: boolean;
  /** The data: what `JSON.parse` makes of the JSON, or bytes. */
  readonly data: any;
  /** The data as it was sent: JSON text, or bytes. */
  readonly raw: string | Buffer;
}

/** No; the text goes to the client. To be thrown or returned. */
export class Deny extends Error {
  constructor(message?: string);
}

/** Yes, but store this instead. A retry with the same id must be given the same, or it is a conflict. */
export class Replace {
  constructor(data: unknown);
  readonly data: unknown;
}

type MaybePromise<T> = T | PromiseLike<T>;
/** Lets a connection in as the user that it returns (`""`: anonymous), or returns or throws {@link Deny}. */
export type ConnectHook = (request: ConnectRequest) => MaybePromise<string | Deny>;
/** Returns whether the connection may join. */
export type JoinHook = (request: JoinRequest) => MaybePromise<boolean | Deny>;
/** Returns whether the message is stored, or {@link Replace}. */
export type PublishHook = (request: PublishRequest) => MaybePromise<boolean | Deny | Replace>;

// Messages.

/** JSON text that is to be stored as it is, byte for byte. */
export class Json {
  constructor(text: string);
  readonly text: string;
  toString(): string;
}

/** A stored message. */
export class Publication {
  private constructor();
  /** The room's name. */
  readonly room: string;
  /** Its place in the room. Offsets of a room grow, and may skip. */
  readonly offset: Offset;
  /** The offset of the publication before it in its room; 0 if there is none. */
  readonly prev: Offset;
  /** The log's time of it, in milliseconds since 1970 UTC. */
  readonly time: number;
  /** Who sent it; empty for an anonymous one. */
  readonly user: string;
  /** Its id: the sender's, or one that the engine made. */
  readonly id: string;
  /** Its id as the sender gave it; empty if it gave none. */
  readonly givenId: string;
  /** Whether its data is bytes; else it is JSON. */
  readonly isBytes: boolean;
  /** Its data: what `JSON.parse` makes of the JSON, or bytes. Made when it is asked for, once. */
  readonly data: any;
  /** Its data as it lies in the log: JSON text exactly as it was sent, or bytes. */
  readonly raw: string | Buffer;
  /** With the fields that it has on the wire; an offset that is a bigint becomes its digits. */
  toJSON(): object;
}

/** A page of a room's history. Iterate over it for its publications. */
export class HistoryPage implements Iterable<Publication> {
  private constructor();
  /** The publications, in the order asked for. */
  readonly publications: Publication[];
  /** Whether the range holds more, in the direction read. */
  readonly more: boolean;
  /** The room's last offset. */
  readonly last: Offset;
  /** Which incarnation of the room's stream the offsets belong to. */
  readonly epoch: string;
  /** How many. */
  readonly length: number;
  [Symbol.iterator](): Iterator<Publication>;
}

/** What a publish came to: the message is stored. */
export class Ack {
  private constructor();
  /** Its place in its room. */
  readonly offset: Offset;
  /** Which incarnation of the room's stream the offset belongs to. */
  readonly epoch: string;
  /** The message's id; made by the engine if none was given. */
  readonly id: string;
  /** Whether it had been stored before, by an earlier publish with the same id. */
  readonly duplicate: boolean;
}

/** Who is in a room, on this node. */
export interface Presence {
  /** Members, counted by connection, anonymous ones among them. */
  readonly count: number;
  /** Named users with their connections there, sorted by name; at most `limits.presence_names`. */
  readonly users: { readonly user: string; readonly connections: number }[];
  /** Whether there are more named users than are listed. */
  readonly truncated: boolean;
}

/** How a message is published. */
export interface PublishOptions {
  /** Who it is from. Default: anonymous. */
  user?: string;
  /** Its id, so that it can be published again after {@link OutcomeUnknown}. Default: made by the engine. */
  id?: string;
}

/** Which part of a room's history. */
export interface HistoryOptions {
  /** Only publications with a larger offset. */
  after?: Offset;
  /** Only publications with a smaller offset; 0 is no bound. */
  before?: Offset;
  /** Most publications; capped by `limits.history_page`. Default 50. */
  limit?: number;
  /** The newest first. */
  backward?: boolean;
  /** Answer only from what has reached this offset; else {@link Unavailable}. */
  atLeast?: Offset;
}

/** Where a subscription begins. */
export interface SubscribeOptions {
  /** Behind this place. An offset alone does not say of which stream it is. */
  since?: Position | Offset;
  /** With so many of the newest; with `since`, if that cannot be resumed from. */
  history?: number;
}

/**
 * A room's publications: history first, then live, without gap or double.
 *
 * Iterate over it with `for await`, over whole batches with {@link batches}, or listen to its `message`. It ends when the engine stops or
 * it is closed, also by leaving the loop. One that cannot go on throws {@link SubscriptionEnded}, or emits it as `error`.
 */
export class Subscription extends EventEmitter implements AsyncIterable<Publication> {
  private constructor();
  /** The room's name. */
  readonly room: string;
  /** Resolves to the subscription once it is open: what comes from there on it will have. */
  open(): Promise<this>;
  /** For a start from a position: whether it could be resumed from. If not, the newest history comes instead. Known once it is open. */
  readonly recovered: boolean;
  /** The place of the last publication that you have had: subscribe since here to go on. Known once it is open. */
  readonly position: Position;
  /** The next publications, at most so many; waits for the first. Empty at the end. */
  batch(most?: number): Promise<Publication[]>;
  /** The publications in arrays of those that are there, each of at most so many. */
  batches(most?: number): AsyncGenerator<Publication[], void, void>;
  /** Ends it; whoever waits for it is told so. */
  close(): void;
  [Symbol.asyncIterator](): AsyncIterator<Publication, undefined, void>;

  on<E extends keyof SubscriptionEvents>(event: E, listener: SubscriptionEvents[E]): this;
  once<E extends keyof SubscriptionEvents>(event: E, listener: SubscriptionEvents[E]): this;
  addListener<E extends keyof SubscriptionEvents>(event: E, listener: SubscriptionEvents[E]): this;
  off<E extends keyof SubscriptionEvents>(event: E, listener: SubscriptionEvents[E]): this;
  removeListener<E extends keyof SubscriptionEvents>(event: E, listener: SubscriptionEvents[E]): this;
}

/** What a subscription emits. */
export interface SubscriptionEvents {
  /** A publication has come. The first listener has them flow. */
  message: (publication: Publication) => void | PromiseLike<void>;
  /** Nothing more comes. */
  end: () => void | PromiseLike<void>;
  /** It cannot go on, or a listener threw or rejected. Where nobody listens, the engine emits it. */
  error: (error: unknown) => void;
}

/** How a consumer works. */
export interface ConsumeOptions {
  /** A group that is new begins at the end of the topic, not at its first record. */
  fromEnd?: boolean;
  /** How many publications may be at work at once, of different partitions. Default 1. */
  threads?: number;
  /** How long until a publication is handled again, and the longest that this grows to, in milliseconds. Default 200 and 30,000. */
  retryMs?: readonly [number, number];
  /** How long a partition that goes to another member waits for what is at work on it, in milliseconds. Default 30,000. */
  releaseMs?: number;
  /** librdkafka's properties, for this consumer alone. */
  properties?: Readonly<Record<string, string>>;
}

/** How a consumer is. */
export interface ConsumerStatus {
  /** How many partitions it has now. None while its group is dividing them, or has more members than partitions. */
  readonly partitions: number;
  /** Records of these partitions that this node has read and this consumer has not dealt with. */
  readonly lag: number;
  /** Publications whose handler is done with them. */
  readonly handled: number;
  /** Errors of the handler; after each it was, or will be, called again. */
  readonly retries: number;
  /** Records that no member saw either: duplicates, conflicts, and what is no message or in the wrong partition. */
  readonly skipped: number;
  /** How often a partition was begun anew at its first record, because the topic no longer had what came next. */
  readonly resets: number;
  /** The text of the handler's last error; null once that publication was handled. */
  readonly lastError: string | null;
  /** Why it does nothing any more. */
  readonly failed: KlatchError | null;
}

/** A member of a consumer group. */
export class Consumer {
  private constructor();
  /** How it is. */
  status(): ConsumerStatus;
  /** Leaves the group, once the handlers at work are done or the time is over; whether all that was handled is committed. */
  stop(timeoutMs?: number): Promise<boolean>;
}

/** What an engine emits. */
export interface EngineEvents {
  /** A connection was let in. */
  connected: (event: { readonly connection: string; readonly user: string; readonly address: string }) => void | PromiseLike<void>;
  /** A connection that had been let in has ended; `why` is the engine's reason (docs/codes.md), null if it was the client or the network. */
  disconnected: (event: { readonly connection: string; readonly user: string; readonly why: string | null }) => void | PromiseLike<void>;
  /** A connection has become a member of a room. */
  joined: (event: { readonly connection: string; readonly user: string; readonly room: string }) => void | PromiseLike<void>;
  /** A connection is no longer a member of a room. */
  left: (event: { readonly connection: string; readonly user: string; readonly room: string }) => void | PromiseLike<void>;
  /** Storing has become impossible (the name of a code), or possible again (null). */
  storage: (event: { readonly refusing: string | null }) => void | PromiseLike<void>;
  /** So many events were lost here, because the event loop was held up. */
  lost: (event: { readonly count: number }) => void | PromiseLike<void>;
  /** A hook, handler or listener threw, rejected or did not answer in time. Where nobody listens it is a warning of the process. */
  error: (error: unknown) => void;
}

/** A running engine. */
export class Engine extends EventEmitter {
  /** Does not start it yet. */
  constructor(options?: EngineOptions);
  /** Makes one and starts it. */
  static start(options?: EngineOptions): Promise<Engine>;
  /** Opens the log, binds the addresses and starts; once. Resolves to the engine. */
  start(): Promise<this>;
  /**
   * Stops: takes no more connections and publishes, stores and answers what is queued, tells clients to come back, closes the log. Resolves
   * to how many messages were not written in time; each was answered. Waits at most about so long.
   */
  stop(timeoutMs?: number): Promise<number>;
  /** An engine that runs keeps the process alive, as a listening server does. This undoes {@link unref}. */
  ref(): this;
  /** Lets the process end while the engine runs: it is stopped then. Calls that have yet to be answered keep the process alive. */
  unref(): this;

  /** Where it listens, as `host:port`, in the order of the settings; ports that were 0 are filled in. */
  readonly addresses: string[];
  /** The WebSocket URL of its first address. */
  readonly url: string;
  /**
   * `up`, or why publishes are not stored: `storage_full`, `storage_failed`, `log_damaged`, `stopped`; with Kafka `degraded` or `down`.
   */
  readonly health: string;
  /** The engine's numbers, in the text format of Prometheus. */
  metrics(): string;

  /**
   * Stores and delivers a message; resolves when it is stored. It is on its way when this returns, and messages to a room are stored in
   * the order of the calls. `data` is a buffer of any kind, {@link Json}, or anything that `JSON.stringify` takes.
   *
   * Rejects with {@link NotStored} where it is certainly not stored, and with {@link OutcomeUnknown} where it may be.
   */
  publish(room: string, data: unknown, options?: PublishOptions): Promise<Ack>;
  /** The same with several, in order. Resolves to an outcome for each, an error among them. */
  publishBatch(messages: Iterable<{ room: string; data: unknown } & PublishOptions>): Promise<(Ack | KlatchError)[]>;
  /** Reads a page of a room's history. */
  history(room: string, options?: HistoryOptions): Promise<HistoryPage>;
  /** Listens to a room, from now on if nothing else is said. */
  subscribe(room: string, options?: SubscribeOptions): Subscription;
  /**
   * Joins a consumer group, only on Kafka: the handler is called for every publication of every room, each on one node of the group. Once
   * it has returned, or what it returned has resolved, the publication is done with; if it throws or rejects it is handled again.
   */
  consume(
    group: string,
    handler: (publication: Publication) => void | PromiseLike<void>,
    options?: ConsumeOptions,
  ): Promise<Consumer>;
  /** Who is in a room, on this node. */
  presence(room: string): Presence;
  /** Delivers an event to a room's members without storing it. */
  signal(room: string, name: string, data?: unknown, options?: { user?: string }): void;
  /**
   * Delivers an event to one connection, by the id that events and hooks name, without storing it. Its client gets a signal without a
   * room. Nothing happens if there is no such connection on this node.
   */
  send(connection: string, name: string, data?: unknown): void;
  /** Takes a connection, or a user's connections, out of a room, or, without a room, closes them and tells their clients not to come back. */
  kick(whom: { user: string; room?: string } | { connection: string; room?: string }): void;
  /**
   * Has the engine answer below a path on the port of a web server: clients connect to `<path>/ws`, and `<path>/rooms/<room>/history`,
   * `<path>/healthz`, `<path>/readyz` and `<path>/metrics` are there too. What is upgraded is handed over, socket and all, except behind
   * TLS. Call it after the server has its other listeners. Ends when the engine stops, or by calling what is returned.
   */
  attach(server: HttpServer | HttpsServer, options?: { path?: string }): () => void;

  on<E extends keyof EngineEvents>(event: E, listener: EngineEvents[E]): this;
  once<E extends keyof EngineEvents>(event: E, listener: EngineEvents[E]): this;
  addListener<E extends keyof EngineEvents>(event: E, listener: EngineEvents[E]): this;
  off<E extends keyof EngineEvents>(event: E, listener: EngineEvents[E]): this;
  removeListener<E extends keyof EngineEvents>(event: E, listener: EngineEvents[E]): this;
}

// Errors.

/** What to do about an error: its class, as in docs/codes.md. */
export type Retry = "later" | "never" | "same_id" | "forbidden" | "operator";

/** An error of the engine. */
export class KlatchError extends Error {
  constructor(message?: string);
  /** The number that all faces of klatch share. */
  readonly code: number;
  /** The name that all faces of klatch share. */
  readonly name: string;
  /** What to do. */
  readonly retry: Retry;
  /** When a retry may succeed, in milliseconds; 0 where retrying does not help by itself. */
  readonly retryAfterMs: number;
}

/** The request was not carried out; a message was certainly not stored. */
export class NotStored extends KlatchError {}
/** The message may have been stored: publish it again with the same id, and the answer will be the same for both. */
export class OutcomeUnknown extends KlatchError {}
/** A queue is full. */
export class Busy extends NotStored {}
/** This part of the engine cannot answer now. */
export class Unavailable extends NotStored {}
/** The disk is full, or the process may open no more files. Reads go on, and publishing recovers when there is room. */
export class StorageFull extends NotStored {}
/** A connection sent faster than its limit. */
export class RateLimited extends NotStored {}
/** A hook did not answer within `limits.hook_timeout_ms`. */
export class HookTimeout extends NotStored {}
/** The engine is stopping. */
export class Stopping extends NotStored {}
/** A publish waited longer than `limits.publish_timeout_ms` before it was written. */
export class Timeout extends NotStored {}
/** The request itself is wrong; made again unchanged it fails again. */
export class InvalidRequest extends NotStored {}
/** A room, user or event name is empty, too long, has control characters, or a lone surrogate. */
export class InvalidName extends InvalidRequest {}
/** The data is not what a message may hold: no JSON, or text with a lone surrogate. */
export class InvalidData extends InvalidRequest {}
/** The message is larger than `limits.message_bytes`. */
export class TooLarge extends InvalidRequest {}
/** The data is nested deeper than `limits.json_depth`. */
export class TooDeep extends InvalidRequest {}
/** This message id was already used by this user in this room for another body. */
export class Conflict extends InvalidRequest {}
/** A message id is empty, too long, has control characters, or begins with `~`. */
export class InvalidId extends InvalidRequest {}
/** This engine, as it is configured, cannot do that. */
export class Unsupported extends InvalidRequest {}
/** A connection's credentials were refused. */
export class Unauthorized extends KlatchError {}
/** A hook refused a request. */
export class Denied extends KlatchError {}
/** A sync or write of the log failed. Nothing more is stored until the engine is started again; reads go on. */
export class StorageFailed extends NotStored {}
/** The log has damage that nobody has accepted yet. */
export class LogDamaged extends NotStored {}
/** A fault in klatch itself. */
export class InternalError extends KlatchError {}
/** Another engine has this data directory open. */
export class DataDirLocked extends KlatchError {}
/** The engine has been stopped. */
export class Stopped extends NotStored {}
/** The call would wait for the very thread that it is made on. */
export class WouldDeadlock extends KlatchError {}
/** A setting is wrong. */
export class InvalidConfig extends KlatchError {}
/** A listen address cannot be bound, for instance because the port is in use. */
export class AddressUnusable extends KlatchError {}
/** The data directory cannot be created, read or written. */
export class DataDirUnusable extends KlatchError {}

/** A subscription that cannot go on. */
export class SubscriptionEnded extends KlatchError {
  /**
   * - `slow`: it was not read, and its queue passed its bound. Subscribe again since its last position.
   * - `dropped`: retention has dropped what it had yet to read.
   * - `unreadable`: the history that it had yet to read cannot be read.
   * - `reset`: the log was replaced by another one, a Kafka topic that was created again. Old positions mean nothing.
   */
  readonly why: string;
}

/** A line of the log: for the operator, without messages, names or tokens. */
export interface LogLine {
  readonly level: LogLevel;
  /** The part of klatch that it is from. */
  readonly target: string;
  readonly text: string;
}
export type LogLevel = "trace" | "debug" | "info" | "warn" | "error";
/** Has a function called with each line of the log of all engines, at this level (`warn`) and above; null: no more. */
export function setLogHandler(handler: ((line: LogLine) => void) | null, level?: LogLevel): void;
/** Every error code. */
export const codes: readonly { readonly code: number; readonly name: string; readonly retry: Retry; readonly about: string }[];
/** The package's version. */
export const version: string;
