//! Errors.
//!
//! A function that can fail returns NULL for success, or an error that the caller frees with klatch_error_free(). What it was to give is
//! NULL or 0 then. The hundred of a code is its class, so that a program can act on codes that it does not know: klatch_error_retry().

use crate::text::{Text, free, give as object, klatch_str_t};
use klatch::{Error, Retry};

/// A queue is full. The message was not stored.
pub const KLATCH_ERROR_BUSY: i32 = 100;
/// This part of the engine cannot answer now, for instance because it has yet to read up to the position asked for.
pub const KLATCH_ERROR_UNAVAILABLE: i32 = 101;
/// The disk is full, or the process may open no more files. The message was not stored; reads go on, and publishing recovers when there is room.
pub const KLATCH_ERROR_STORAGE_FULL: i32 = 102;
/// The connection sent faster than its limit. The message was not stored.
pub const KLATCH_ERROR_RATE_LIMITED: i32 = 103;
/// A hook of the host did not answer within hook_timeout_ms. The request was not carried out.
pub const KLATCH_ERROR_HOOK_TIMEOUT: i32 = 104;
/// The engine is stopping. The request was not carried out.
pub const KLATCH_ERROR_STOPPING: i32 = 105;
/// A publish waited longer than publish_timeout_ms before it was written. It was not stored.
pub const KLATCH_ERROR_TIMEOUT: i32 = 106;
/// The request is not valid JSON of the documented shape.
pub const KLATCH_ERROR_BAD_REQUEST: i32 = 200;
/// The request's type is not one that this version knows.
pub const KLATCH_ERROR_UNKNOWN_COMMAND: i32 = 201;
/// A room, user or event name is empty, too long, or has control characters.
pub const KLATCH_ERROR_INVALID_NAME: i32 = 202;
/// The data is not what a message may hold: a lone surrogate, or base64 that does not decode.
pub const KLATCH_ERROR_INVALID_DATA: i32 = 203;
/// The message is larger than message_bytes.
pub const KLATCH_ERROR_TOO_LARGE: i32 = 204;
/// The data is nested deeper than json_depth.
pub const KLATCH_ERROR_TOO_DEEP: i32 = 205;
/// This message id was already used by this user in this room for another body.
pub const KLATCH_ERROR_CONFLICT: i32 = 206;
/// The connection is not a member of the room.
pub const KLATCH_ERROR_NOT_JOINED: i32 = 207;
/// The connection is a member of the room already.
pub const KLATCH_ERROR_ALREADY_JOINED: i32 = 208;
/// The connection is in rooms_per_connection rooms already.
pub const KLATCH_ERROR_TOO_MANY_ROOMS: i32 = 209;
/// The request names no room and the connection has no default room.
pub const KLATCH_ERROR_NO_ROOM: i32 = 210;
/// A message id is empty, too long, has control characters, or begins with ~, which is kept for ids made by the engine.
pub const KLATCH_ERROR_INVALID_ID: i32 = 211;
/// This engine, as it is configured, cannot do that.
pub const KLATCH_ERROR_UNSUPPORTED: i32 = 212;
/// This stream has come to its end, and says why. What comes after it is read from another one.
pub const KLATCH_ERROR_ENDED: i32 = 213;
/// The message may have been stored: retry with the same id and the answer will be the same for both.
pub const KLATCH_ERROR_OUTCOME_UNKNOWN: i32 = 300;
/// The connection's credentials were refused.
pub const KLATCH_ERROR_UNAUTHORIZED: i32 = 400;
/// The host's hook refused this request.
pub const KLATCH_ERROR_DENIED: i32 = 401;
/// A sync or write of the log failed. Nothing more is stored until the engine is started again; reads go on.
pub const KLATCH_ERROR_STORAGE_FAILED: i32 = 500;
/// The log has damage that nobody has accepted yet. Nothing is stored; what is sound can be read.
pub const KLATCH_ERROR_LOG_DAMAGED: i32 = 501;
/// A fault in klatch itself, or a panic in a hook.
pub const KLATCH_ERROR_INTERNAL: i32 = 502;
/// Another engine has this data directory open.
pub const KLATCH_ERROR_DATA_DIR_LOCKED: i32 = 503;
/// The engine has been stopped.
pub const KLATCH_ERROR_STOPPED: i32 = 504;
/// The call would wait for the very thread that it is made on: a waker of the host, which the engine has woken. It does not wait;
/// make the call from another thread. A publish whose answer was to be waited for goes its way without.
pub const KLATCH_ERROR_WOULD_DEADLOCK: i32 = 505;
/// A setting is wrong.
pub const KLATCH_ERROR_INVALID_CONFIG: i32 = 510;
/// The listen address cannot be bound, for instance because the port is in use.
pub const KLATCH_ERROR_ADDRESS_UNUSABLE: i32 = 511;
/// The data directory cannot be created, read or written.
pub const KLATCH_ERROR_DATA_DIR_UNUSABLE: i32 = 512;

/// Nothing was stored; the same call may succeed later, see klatch_error_retry_after_ms(). Codes 1xx.
pub const KLATCH_RETRY_LATER: i32 = 1;
/// The call itself is wrong; unchanged it fails again. Codes 2xx.
pub const KLATCH_RETRY_NEVER: i32 = 2;
/// It is not known whether the message was stored: publish it again with the same id. Codes 3xx.
pub const KLATCH_RETRY_SAME_ID: i32 = 3;
/// Not allowed; other credentials or rights are needed. Codes 4xx.
pub const KLATCH_RETRY_FORBIDDEN: i32 = 4;
/// The engine needs its operator. Codes 5xx.
pub const KLATCH_RETRY_OPERATOR: i32 = 5;

/// Why a call failed. Freed with klatch_error_free().
#[derive(Debug)]
pub struct klatch_error_t {
    code: i32,
    retry: i32,
    retry_after_ms: u32,
    name: Text,
    message: Text,
}

impl klatch_error_t {
    pub(crate) fn new(e: &Error) -> klatch_error_t {
        let retry = match e.retry() {
            Retry::Later => KLATCH_RETRY_LATER,
            Retry::Never => KLATCH_RETRY_NEVER,
            Retry::SameId => KLATCH_RETRY_SAME_ID,
            Retry::Forbidden => KLATCH_RETRY_FORBIDDEN,
            Retry::Operator => KLATCH_RETRY_OPERATOR,
        };
        klatch_error_t {
            code: e.code().number().into(),
            retry,
            retry_after_ms: e.retry_after_ms(),
            name: Text::new(e.code().name()),
            message: Text::new(e.message()),
        }
    }
}

pub(crate) fn give(e: &Error) -> *mut klatch_error_t {
    object(klatch_error_t::new(e))
}

/// The code, one of KLATCH_ERROR_*, or one that is newer than this header. 0 if `error` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_error_code(error: *const klatch_error_t) -> i32 {
    // SAFETY: NULL, or an error that the caller has and does not free meanwhile.
    unsafe { error.as_ref() }.map_or(0, |e| e.code)
}

/// The code's name, such as "storage_full". It lives as long as `error`; empty if that is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_error_name(error: *const klatch_error_t) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { error.as_ref() }.map_or(klatch_str_t::EMPTY, |e| e.name.view())
}

/// A text for people. It never holds message data, tokens or other users' names. It lives as long as `error`; empty if that is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_error_message(error: *const klatch_error_t) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { error.as_ref() }.map_or(klatch_str_t::EMPTY, |e| e.message.view())
}

/// What to do, one of KLATCH_RETRY_*. 0 if `error` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_error_retry(error: *const klatch_error_t) -> i32 {
    // SAFETY: as above.
    unsafe { error.as_ref() }.map_or(0, |e| e.retry)
}

/// When a retry may succeed, in milliseconds. 0 where retrying does not help by itself, and if `error` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_error_retry_after_ms(error: *const klatch_error_t) -> u32 {
    // SAFETY: as above.
    unsafe { error.as_ref() }.map_or(0, |e| e.retry_after_ms)
}

/// Frees `error`, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_error_free(error: *mut klatch_error_t) {
    // SAFETY: NULL, or what `give` made and the caller hands back.
    unsafe { free(error) };
}
