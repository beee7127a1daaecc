//! Hooks.
//!
//! What the host decides.
//!
//! A hook is called with a request, which tells who asks for what, and takes the answer: klatch_request_allow(),
//! klatch_request_deny() and so on, once. It may answer before it returns, or later and from any thread: then it says so with
//! klatch_request_keep(), and whoever has the request frees it. Past the setting limits.hook_timeout_ms a request that was not answered
//! fails with hook_timeout; one that is given up without an answer fails as internal. Hooks run on four threads of the engine that do
//! nothing else, up to four calls at once; they may block, and may call everything.

use crate::builder::{klatch_builder_t, lock};
use crate::callback::{Gate, Kept, klatch_free_fn};
use crate::error::klatch_error_t;
use crate::guard::{self, Place, guard};
use crate::handle::{self, handle};
use crate::publish::{KLATCH_DATA_BINARY, KLATCH_DATA_JSON};
use crate::text::{Text, klatch_bytes_t, klatch_str_t};
use klatch::hooks::{ConnectAnswer, ConnectRequest, JoinAnswer, JoinRequest, PublishAnswer, PublishRequest};
use klatch::message::Kind;
use klatch::{Authorizer, Builder, Code, Error, PublishHook, Result};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A connection asks to be let in: connection, user (which it claims to be), token, address. Allowing it names its user.
pub const KLATCH_REQUEST_CONNECT: i32 = 1;
/// A connection asks to join a room: connection, user, room.
pub const KLATCH_REQUEST_JOIN: i32 = 2;
/// A client publishes: connection, user, room, id, kind, data.
pub const KLATCH_REQUEST_PUBLISH: i32 = 3;

/// What a hook is asked, and the way to answer. It ends when the hook returns, unless klatch_request_keep() was called.
#[derive(Debug)]
pub struct klatch_request_t {
    _opaque: [u8; 0],
}

/// What is behind the handle.
pub(crate) struct Request {
    what: i32,
    connection: Text,
    user: Text,
    token: Text,
    address: Text,
    room: Text,
    id: Text,
    kind: i32,
    /// With a NUL behind it.
    data: Vec<u8>,
    answer: Mutex<Option<Answer>>,
    kept: AtomicBool,
}

enum Answer {
    Connect(ConnectAnswer),
    Join(JoinAnswer),
    Publish(PublishAnswer),
}

handle!(klatch_request_t, Request, "request");

/// Is asked to decide. `request` is borrowed until it returns; klatch_request_keep() makes it the callee's.
pub type klatch_hook_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, request: *mut klatch_request_t)>;

/// A hook of the host.
pub(crate) struct Hook {
    call: unsafe extern "C" fn(user_data: *mut c_void, request: *mut klatch_request_t),
    kept: Kept,
}

/// The hooks of a builder.
#[derive(Default)]
pub(crate) struct Hooks {
    connect: Option<Hook>,
    join: Option<Hook>,
    publish: Option<Hook>,
}

/// The hooks of an engine.
pub(crate) struct HookSet(Hooks);

impl Hooks {
    /// Gives them to the engine, and to whoever closes the gate.
    pub(crate) fn hand_over(self, mut builder: Builder) -> Result<(Builder, Arc<Gate<HookSet>>)> {
        if self.join.is_some() && self.connect.is_none() {
            let text = "a join hook needs a connect hook, which says who is who";
            return Err(Error::new(Code::InvalidConfig, text));
        }
        let (authorizes, publishes) = (self.connect.is_some(), self.publish.is_some());
        let gate = Arc::new(Gate::new(HookSet(self)));
        let asked = Arc::new(Asked(gate.clone()));
        if authorizes {
            builder = builder.authorizer(asked.clone());
        }
        if publishes {
            builder = builder.publish_hook(asked);
        }
        Ok((builder, gate))
    }
}

/// The engine's side. Behind a gate that is closed every request is given up.
struct Asked(Arc<Gate<HookSet>>);

impl Asked {
    fn ask(&self, which: impl FnOnce(&Hooks) -> Option<&Hook>, request: Request) {
        self.0.enter(|set| {
            let Some(hook) = which(&set.0) else { return };
            let request = Arc::new(request);
            let handle = handle::give::<klatch_request_t>(request.clone());
            // SAFETY: the host gave the function for this data, and the handle lives until it is taken.
            guard::call(Place::Callback, (), || unsafe { (hook.call)(hook.kept.data(), handle) });
            if !request.kept.load(Ordering::Acquire) {
                // SAFETY: the handle came from `give` above. Without an answer it is given up, which says so.
                drop(unsafe { handle::take(handle) });
            }
        });
    }
}

impl Authorizer for Asked {
    fn connect(&self, request: ConnectRequest, answer: ConnectAnswer) {
        let asked = Request {
            connection: Text::new(&request.connection),
            user: Text::new(&request.user),
            token: Text::new(&request.token),
            address: Text::new(&request.address.to_string()),
            ..Request::new(KLATCH_REQUEST_CONNECT, Answer::Connect(answer))
        };
        self.ask(|hooks| hooks.connect.as_ref(), asked);
    }

    fn join(&self, request: JoinRequest, answer: JoinAnswer) {
        // Without a hook of its own everybody may.
        if self.0.enter(|set| set.0.join.is_none()) == Some(true) {
            return answer.allow();
        }
        let asked = Request {
            connection: Text::new(&request.connection),
            user: Text::new(&request.user),
            room: Text::new(&request.room),
            ..Request::new(KLATCH_REQUEST_JOIN, Answer::Join(answer))
        };
        self.ask(|hooks| hooks.join.as_ref(), asked);
    }
}

impl PublishHook for Asked {
    fn publish(&self, request: PublishRequest, answer: PublishAnswer) {
        let mut data = Vec::with_capacity(request.data.len() + 1);
        data.extend_from_slice(&request.data);
        data.push(0);
        let asked = Request {
            connection: Text::new(&request.connection),
            user: Text::new(&request.user),
            room: Text::new(&request.room),
            id: Text::new(&request.id),
            kind: match request.kind {
                Kind::Json => KLATCH_DATA_JSON,
                Kind::Binary => KLATCH_DATA_BINARY,
            },
            data,
            ..Request::new(KLATCH_REQUEST_PUBLISH, Answer::Publish(answer))
        };
        self.ask(|hooks| hooks.publish.as_ref(), asked);
    }
}

impl Request {
    fn new(what: i32, answer: Answer) -> Request {
        let none = || Text::new("");
        Request {
            what,
            connection: none(),
            user: none(),
            token: none(),
            address: none(),
            room: none(),
            id: none(),
            kind: KLATCH_DATA_JSON,
            data: vec![0],
            answer: Mutex::new(Some(answer)),
            kept: AtomicBool::new(false),
        }
    }

    fn answer(&self, give: impl FnOnce(Answer) -> Result<(), Answer>) -> Result<()> {
        let mut way = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let answer =
            way.take().ok_or_else(|| Error::new(Code::BadRequest, "this request was answered already"))?;
        give(answer).map_err(|answer| {
            *way = Some(answer);
            Error::new(Code::BadRequest, "a request of this kind has no such answer")
        })
    }
}

fn register(
    builder: *mut klatch_builder_t,
    hook: klatch_hook_fn,
    kept: Kept,
    place: impl FnOnce(&mut Hooks) -> &mut Option<Hook>,
) -> *mut klatch_error_t {
    guard(move || {
        // SAFETY: the caller's pointer is what the header asks for.
        let gathered = unsafe { handle::get(builder) }?;
        let hook = hook.map(|call| Hook { call, kept });
        let before = std::mem::replace(place(&mut lock(&gathered).hooks), hook);
        drop(before);
        Ok(())
    })
}

/// Who may connect. Without it everybody may, under any user name if the setting open_users is true. NULL takes the hook away.
///
/// Takes `user_data`. Errors: stopped, if the builder was started or freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_builder_on_connect(
    builder: *mut klatch_builder_t,
    hook: klatch_hook_fn,
    user_data: *mut c_void,
    free_user_data: klatch_free_fn,
) -> *mut klatch_error_t {
    register(builder, hook, Kept::new(user_data, free_user_data), |hooks| &mut hooks.connect)
}

/// Who may join which room. Without it every connection may join every room. It needs a connect hook too, or the start fails.
///
/// Takes `user_data`. Errors: stopped, if the builder was started or freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_builder_on_join(
    builder: *mut klatch_builder_t,
    hook: klatch_hook_fn,
    user_data: *mut c_void,
    free_user_data: klatch_free_fn,
) -> *mut klatch_error_t {
    register(builder, hook, Kept::new(user_data, free_user_data), |hooks| &mut hooks.join)
}

/// What clients may publish: a word filter for instance. What the host itself publishes does not pass through it.
///
/// Takes `user_data`. Errors: stopped, if the builder was started or freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_builder_on_publish(
    builder: *mut klatch_builder_t,
    hook: klatch_hook_fn,
    user_data: *mut c_void,
    free_user_data: klatch_free_fn,
) -> *mut klatch_error_t {
    register(builder, hook, Kept::new(user_data, free_user_data), |hooks| &mut hooks.publish)
}

unsafe fn text(request: *const klatch_request_t, of: impl FnOnce(&Request) -> &Text) -> klatch_str_t {
    guard::value(klatch_str_t::EMPTY, || {
        // SAFETY: the caller's promise.
        unsafe { handle::with(request, |r| Ok(of(r).view())) }.unwrap_or(klatch_str_t::EMPTY)
    })
}

/// What is asked for, one of KLATCH_REQUEST_*. 0 if the handle is NULL or has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_what(request: *const klatch_request_t) -> i32 {
    // SAFETY: the caller's pointer is what the header asks for.
    guard::value(0, || unsafe { handle::with(request, |r| Ok(r.what)) }.unwrap_or_default())
}

/// The connection's id. It lives as long as `request`, as do the other texts; empty if that is NULL or has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_connection(request: *const klatch_request_t) -> klatch_str_t {
    // SAFETY: the caller's pointer is what the header asks for.
    unsafe { text(request, |r| &r.connection) }
}

/// The user: of a connect the one that the client claims to be, else the one that the connection is. Empty if none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_user(request: *const klatch_request_t) -> klatch_str_t {
    // SAFETY: the caller's pointer is what the header asks for.
    unsafe { text(request, |r| &r.user) }
}

/// Of a connect: the client's token; empty if none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_token(request: *const klatch_request_t) -> klatch_str_t {
    // SAFETY: the caller's pointer is what the header asks for.
    unsafe { text(request, |r| &r.token) }
}

/// Of a connect: the client's address, "127.0.0.1:50312".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_address(request: *const klatch_request_t) -> klatch_str_t {
    // SAFETY: the caller's pointer is what the header asks for.
    unsafe { text(request, |r| &r.address) }
}

/// Of a join and a publish: the room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_room(request: *const klatch_request_t) -> klatch_str_t {
    // SAFETY: the caller's pointer is what the header asks for.
    unsafe { text(request, |r| &r.room) }
}

/// Of a publish: the message id as the client gave it; empty if it gave none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_id(request: *const klatch_request_t) -> klatch_str_t {
    // SAFETY: the caller's pointer is what the header asks for.
    unsafe { text(request, |r| &r.id) }
}

/// Of a publish: what the data is, one of KLATCH_DATA_*.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_kind(request: *const klatch_request_t) -> i32 {
    // SAFETY: the caller's pointer is what the header asks for.
    guard::value(0, || unsafe { handle::with(request, |r| Ok(r.kind)) }.unwrap_or_default())
}

/// Of a publish: the data, with a NUL behind it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_data(request: *const klatch_request_t) -> klatch_bytes_t {
    let data = |r: &Request| Ok(klatch_bytes_t { ptr: r.data.as_ptr(), len: r.data.len() - 1 });
    guard::value(klatch_bytes_t::EMPTY, || {
        // SAFETY: the caller's pointer is what the header asks for.
        unsafe { handle::with(request, data) }.unwrap_or(klatch_bytes_t::EMPTY)
    })
}

/// Allows it: a connect as the user that the client claims to be, a publish as it is.
///
/// Errors: bad_request if it was answered already; stopped if it has ended.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_allow(request: *mut klatch_request_t) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointer is what the header asks for.
        let request = unsafe { handle::get(request) }?;
        request.answer(|answer| {
            match answer {
                Answer::Connect(answer) => answer.allow(request.user.as_str()),
                Answer::Join(answer) => answer.allow(),
                Answer::Publish(answer) => answer.allow(),
            }
            Ok(())
        })
    })
}

/// Lets a connection in as `user` (empty: anonymous).
///
/// Borrows `user`. Errors: bad_request if it was answered already, or asks for something else; stopped if it has ended.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_allow_as(
    request: *mut klatch_request_t,
    user: klatch_str_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (request, user) = unsafe { (handle::get(request)?, user.name("user")?) };
        request.answer(|answer| match answer {
            Answer::Connect(answer) => {
                answer.allow(user);
                Ok(())
            }
            other => Err(other),
        })
    })
}

/// Stores this JSON text in place of what the client published. It must be one JSON value, or the publish fails as internal. A retry with
/// the same id must be given the same text, or it is a conflict.
///
/// Borrows `json`. Errors: bad_request if it was answered already, or asks for something else; invalid_data; stopped if it has ended.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_replace_json(
    request: *mut klatch_request_t,
    json: klatch_str_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (request, json) = unsafe { (handle::get(request)?, json.json("json")?) };
        request.answer(|answer| match answer {
            Answer::Publish(answer) => {
                answer.replace_json(json);
                Ok(())
            }
            other => Err(other),
        })
    })
}

/// Stores these bytes in place of what the client published.
///
/// Borrows `data`. Errors: bad_request if it was answered already, or asks for something else; stopped if it has ended.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_replace_bytes(
    request: *mut klatch_request_t,
    data: klatch_bytes_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (request, data) = unsafe { (handle::get(request)?, data.data("data")?) };
        request.answer(|answer| match answer {
            Answer::Publish(answer) => {
                answer.replace_bytes(data);
                Ok(())
            }
            other => Err(other),
        })
    })
}

/// Refuses it. `message` goes to the client.
///
/// Borrows `message`. Errors: bad_request if it was answered already; stopped if it has ended.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_deny(
    request: *mut klatch_request_t,
    message: klatch_str_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (request, message) = unsafe { (handle::get(request)?, message.name("message")?) };
        request.answer(|answer| {
            match answer {
                Answer::Connect(answer) => answer.deny(message),
                Answer::Join(answer) => answer.deny(message),
                Answer::Publish(answer) => answer.deny(message),
            }
            Ok(())
        })
    })
}

/// Has the request outlive the hook that was called with it: from now on it is the caller's, who frees it with klatch_request_free() once it
/// is answered or given up. Its texts live as long.
///
/// Errors: stopped if it has ended.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_keep(request: *mut klatch_request_t) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointer is what the header asks for.
        unsafe { handle::get(request) }?.kept.store(true, Ordering::Release);
        Ok(())
    })
}

/// Frees a request that was kept; it may be NULL. Without an answer it is given up: the client is told internal.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_request_free(request: *mut klatch_request_t) {
    // SAFETY: the caller's pointer is what the header asks for.
    guard::value((), || drop(unsafe { handle::take(request) }));
}
