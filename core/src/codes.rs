//! Error codes and disconnect codes: the numbers and names that every face of klatch shares.
//!
//! The hundred of an error code is its class, so a client can act on a code that it does not know.
//! Numbers are never reused. docs/codes.md is generated from the tables below.

/// What the caller of a failed request should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// 1xx: nothing was stored; the same request may succeed later (`retry_after_ms` says when).
    Later,
    /// 2xx: the request itself is wrong; sending it again unchanged fails again.
    Never,
    /// 3xx: it is not known whether the message was stored; retry with the same message id.
    SameId,
    /// 4xx: not allowed; other credentials or rights are needed.
    Forbidden,
    /// 5xx: the engine needs its operator.
    Operator,
}

impl Retry {
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Retry::Later => "later",
            Retry::Never => "never",
            Retry::SameId => "same_id",
            Retry::Forbidden => "forbidden",
            Retry::Operator => "operator",
        }
    }
}

macro_rules! codes {
    ($(#[$m:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $text:literal;)+ }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl $name {
            /// Every code, in order of number.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The number on the wire.
            pub fn number(self) -> u16 { self as u16 }

            /// The stable name on the wire.
            pub fn name(self) -> &'static str { match self { $($name::$variant => $text,)+ } }

            /// What the code means, as documented.
            pub fn doc(self) -> &'static str { match self { $($name::$variant => concat!($($doc,)+).trim_ascii(),)+ } }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.name()) }
        }
    };
}

codes! {
    /// Why a request failed.
    Code {
        /// A queue is full. The message was not stored.
        Busy = 100, "busy";
        /// This part of the engine cannot answer now, for instance because it has yet to read up to the position asked for.
        Unavailable = 101, "unavailable";
        /// The disk is full, or the process may open no more files. The message was not stored; reads go on, and publishing recovers when there is room.
        StorageFull = 102, "storage_full";
        /// The connection sent faster than its limit. The message was not stored.
        RateLimited = 103, "rate_limited";
        /// A hook of the host did not answer within `hook_timeout_ms`. The request was not carried out.
        HookTimeout = 104, "hook_timeout";
        /// The engine is stopping. The request was not carried out.
        Stopping = 105, "stopping";
        /// A publish waited longer than `publish_timeout_ms` before it was written. It was not stored.
        Timeout = 106, "timeout";
        /// The request is not valid JSON of the documented shape.
        BadRequest = 200, "bad_request";
        /// The request's type is not one that this version knows.
        UnknownCommand = 201, "unknown_command";
        /// A room, user or event name is empty, too long, or has control characters.
        InvalidName = 202, "invalid_name";
        /// The data is not what a message may hold: a lone surrogate, or base64 that does not decode.
        InvalidData = 203, "invalid_data";
        /// The message is larger than `message_bytes`.
        TooLarge = 204, "too_large";
        /// The data is nested deeper than `json_depth`.
        TooDeep = 205, "too_deep";
        /// This message id was already used by this user in this room for another body.
        Conflict = 206, "conflict";
        /// The connection is not a member of the room.
        NotJoined = 207, "not_joined";
        /// The connection is a member of the room already.
        AlreadyJoined = 208, "already_joined";
        /// The connection is in `rooms_per_connection` rooms already.
        TooManyRooms = 209, "too_many_rooms";
        /// The request names no room and the connection has no default room.
        NoRoom = 210, "no_room";
        /// A message id is empty, too long, has control characters, or begins with `~`, which is kept for ids made by the engine.
        InvalidId = 211, "invalid_id";
        /// This engine, as it is configured, cannot do that.
        Unsupported = 212, "unsupported";
        /// This stream has come to its end, and says why. What comes after it is read from another one.
        Ended = 213, "ended";
        /// The message may have been stored: retry with the same id and the answer will be the same for both.
        Unknown = 300, "outcome_unknown";
        /// The connection's credentials were refused.
        Unauthorized = 400, "unauthorized";
        /// The host's hook refused this request.
        Denied = 401, "denied";
        /// A sync or write of the log failed. Nothing more is stored until the engine is started again; reads go on.
        StorageFailed = 500, "storage_failed";
        /// The log has damage that nobody has accepted yet. Nothing is stored; what is sound can be read.
        LogDamaged = 501, "log_damaged";
        /// A fault in klatch itself, or a panic in a hook.
        Internal = 502, "internal";
        /// Another engine has this data directory open.
        DataDirLocked = 503, "data_dir_locked";
        /// The engine has been stopped.
        Stopped = 504, "stopped";
        /// The call would wait for the very thread that it is made on: a waker of the host, which the engine has woken. It does not wait;
        /// make the call from another thread. A publish whose answer was to be waited for goes its way without.
        WouldDeadlock = 505, "would_deadlock";
        /// A setting is wrong.
        InvalidConfig = 510, "invalid_config";
        /// The listen address cannot be bound, for instance because the port is in use.
        AddressUnusable = 511, "address_unusable";
        /// The data directory cannot be created, read or written.
        DataDirUnusable = 512, "data_dir_unusable";
    }
}

impl Code {
    /// What to do about it.
    pub fn retry(self) -> Retry {
        match self.number() / 100 {
            1 => Retry::Later,
            2 => Retry::Never,
            3 => Retry::SameId,
            4 => Retry::Forbidden,
            _ => Retry::Operator,
        }
    }

    /// The code with this number.
    pub fn from_number(number: u16) -> Option<Code> {
        Code::ALL.iter().copied().find(|c| c.number() == number)
    }
}

codes! {
    /// Why the engine closed a connection: the WebSocket close code. 40xx: connect again and resume; 45xx: do not.
    Disconnect {
        /// The engine is stopping or restarting.
        Shutdown = 4000, "shutdown";
        /// The connection did not take what was sent to it: its backlog passed `outbound_bytes`. One that stood still for `slow_ms` ends without a close frame.
        Slow = 4001, "slow";
        /// No answer to a heartbeat within `heartbeat_timeout_ms`.
        Heartbeat = 4002, "heartbeat";
        /// The first frame did not come within `handshake_timeout_ms`.
        Handshake = 4003, "handshake";
        /// The host closed the connection and it may come back.
        Reconnect = 4004, "reconnect";
        /// The host removed the user.
        Kicked = 4500, "kicked";
        /// The connection's credentials were refused.
        Unauthorized = 4501, "unauthorized";
        /// The connection broke the protocol, for instance with a binary frame, `bad_requests` malformed frames, or a first frame that does not say who it is.
        Protocol = 4502, "protocol";
        /// A fault in klatch itself.
        Internal = 4503, "internal";
    }
}

impl Disconnect {
    /// Whether a client should connect again.
    pub fn reconnects(self) -> bool {
        self.number() < 4500
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_sorted() {
        let numbers: Vec<u16> = Code::ALL.iter().map(|c| c.number()).collect();
        assert!(numbers.windows(2).all(|w| w[0] < w[1]));
        let mut names: Vec<&str> = Code::ALL.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        assert_eq!(Code::from_number(206), Some(Code::Conflict));
        assert_eq!(Code::Busy.retry(), Retry::Later);
        assert_eq!(Code::Unknown.retry(), Retry::SameId);
    }
}
