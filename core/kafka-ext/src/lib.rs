//! What klatch needs of librdkafka and rdkafka does not offer: a topic's id and who may do what with it, a message's persistence status,
//! and headers of any name.
//!
//! Beside the C interface this is the only crate with `unsafe`. Its functions are safe for every caller.

use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::BorrowedMessage;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

/// What the producer knows of where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persisted {
    /// It was never sent, or refused: certainly in no log.
    No,
    /// It was sent and no answer came.
    Possibly,
    /// The cluster has acknowledged it.
    Yes,
}

/// The status of a message in a delivery report, whether that reports an error or not.
pub fn persisted(message: &BorrowedMessage<'_>) -> Persisted {
    use native::rd_kafka_msg_status_t::*;
    // SAFETY: the pointer is that of a message which lives as long as `message`; librdkafka only reads a field of it.
    match unsafe { native::rd_kafka_message_status(message.ptr()) } {
        RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Persisted::No,
        RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED => Persisted::Possibly,
        RD_KAFKA_MSG_STATUS_PERSISTED => Persisted::Yes,
    }
}

/// The values of the last headers with these names. rdkafka's own walk over the headers panics where any name is not UTF-8, and other
/// programs may write such.
pub fn headers<'m, const N: usize>(
    message: &'m BorrowedMessage<'_>,
    names: [&CStr; N],
) -> [Option<&'m [u8]>; N] {
    let mut list = null_mut();
    // SAFETY: the message lives as long as `message`, which the list belongs to from then on. Parsing it at the first call is what
    // rdkafka's own `headers` does with a shared reference, too.
    let error = unsafe { native::rd_kafka_message_headers(message.ptr(), &mut list) };
    if error as i32 != 0 || list.is_null() {
        return [None; N];
    }
    names.map(|name| {
        let (mut value, mut len): (*const c_void, usize) = (std::ptr::null(), 0);
        // SAFETY: the list is valid, the name ends with a zero byte, and the results go into two variables of the types asked for.
        let error = unsafe { native::rd_kafka_header_get_last(list, name.as_ptr(), &mut value, &mut len) };
        match (error as i32, value.is_null()) {
            (0, true) => Some(&[][..]),
            // SAFETY: librdkafka gives `len` readable bytes at `value`, which belong to the message and do not change while it lives.
            (0, false) => Some(unsafe { std::slice::from_raw_parts(value.cast::<u8>(), len) }),
            _ => None,
        }
    })
}

/// What the cluster tells of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// The id that it gave the topic when it was created.
    pub id: [u8; 16],
    /// What this client may do; None where the cluster does not say.
    pub rights: Option<Rights>,
}

/// What a client may do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Fetch its records.
    pub read: bool,
    /// Add to them.
    pub write: bool,
    /// See its configuration.
    pub describe_configs: bool,
}

/// Why a topic's id is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdError {
    /// There is no such topic.
    Missing,
    /// The cluster answered with an error.
    Refused(RDKafkaErrorCode),
    /// No answer came in time.
    TimedOut,
    /// The cluster gives topics no ids: it is older than Kafka 3.1.
    NoIds,
    /// The call is none that librdkafka takes.
    Invalid(String),
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdError::Missing => f.write_str("there is no such topic"),
            IdError::Refused(code) => write!(f, "{code}"),
            IdError::TimedOut => f.write_str("no answer came in time"),
            IdError::NoIds => f.write_str("the cluster gives topics no ids: Kafka 3.1 or later is needed"),
            IdError::Invalid(why) => f.write_str(why),
        }
    }
}

/// An object of librdkafka's and how it is given back.
struct Owned<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    fn new(ptr: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Owned<T>> {
        NonNull::new(ptr).map(|ptr| Owned(ptr, destroy))
    }

    fn ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: whoever made this gave the object away with the function that belongs to it; it is called once.
        unsafe { (self.1)(self.ptr()) }
    }
}

/// Asks for a topic. Waits for the answer, at most about `timeout`.
pub fn describe<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Described, IdError> {
    let invalid = |what: &str| IdError::Invalid(what.to_owned());
    let name = CString::new(topic).map_err(|_| invalid("a topic's name has no zero byte"))?;
    let ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).clamp(1, 3_600_000);
    let rk = client.native_ptr();
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    // SAFETY: one name, which ends with a zero byte and outlives the call; librdkafka copies it.
    let topics = unsafe { native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()) };
    let topics = Owned::new(topics, native::rd_kafka_TopicCollection_destroy)
        .ok_or_else(|| invalid("no collection"))?;
    let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: the client lives as long as `client`.
    let options = unsafe { native::rd_kafka_AdminOptions_new(rk, operation) };
    let options =
        Owned::new(options, native::rd_kafka_AdminOptions_destroy).ok_or_else(|| invalid("no options"))?;
    let mut text: [c_char; 256] = [0; 256];
    // SAFETY: the options are valid, and the buffer is as long as it is said to be.
    let error = unsafe {
        native::rd_kafka_AdminOptions_set_request_timeout(options.ptr(), ms, text.as_mut_ptr(), text.len())
    };
    if error as i32 != 0 {
        return Err(IdError::Refused(error.into()));
    }
    // SAFETY: the options are valid. What comes back is an error of ours to free, or null.
    let error = unsafe { native::rd_kafka_AdminOptions_set_include_authorized_operations(options.ptr(), 1) };
    drop(Owned::new(error, native::rd_kafka_error_destroy));
    // SAFETY: the client lives as long as `client`, and so longer than this queue.
    let queue = unsafe { native::rd_kafka_queue_new(rk) };
    let queue = Owned::new(queue, native::rd_kafka_queue_destroy).ok_or_else(|| invalid("no queue"))?;
    // SAFETY: all four are valid; librdkafka takes copies and holds the queue until it has answered.
    unsafe { native::rd_kafka_DescribeTopics(rk, topics.ptr(), options.ptr(), queue.ptr()) };
    // SAFETY: the queue is valid. Past the request's own timeout the answer says so.
    let event = unsafe { native::rd_kafka_queue_poll(queue.ptr(), ms.saturating_add(1000)) };
    let event = Owned::new(event, native::rd_kafka_event_destroy).ok_or(IdError::TimedOut)?;
    answer(&event)
}

fn answer(event: &Owned<native::rd_kafka_event_t>) -> Result<Described, IdError> {
    // SAFETY: the event is valid.
    let error = unsafe { native::rd_kafka_event_error(event.ptr()) };
    if error as i32 != 0 {
        return Err(match error.into() {
            RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut => IdError::TimedOut,
            code => IdError::Refused(code),
        });
    }
    let mut count = 0;
    // SAFETY: the event is valid; of another kind of event the result is null, which is looked for. What is found in it belongs to the
    // event and is only read while that lives. A topic without an error has an id, which is looked for all the same.
    let (code, id, rights) = unsafe {
        let result = native::rd_kafka_event_DescribeTopics_result(event.ptr());
        if result.is_null() {
            return Err(IdError::TimedOut);
        }
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if topics.is_null() || count == 0 {
            return Err(IdError::Missing);
        }
        let topic = *topics;
        let error = native::rd_kafka_TopicDescription_error(topic);
        let code = if error.is_null() { None } else { Some(native::rd_kafka_error_code(error)) };
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        let bits = (!id.is_null()).then(|| {
            let most = native::rd_kafka_Uuid_most_significant_bits(id);
            (most, native::rd_kafka_Uuid_least_significant_bits(id))
        });
        let operations = native::rd_kafka_TopicDescription_authorized_operations(topic, &mut count);
        let rights = (!operations.is_null()).then(|| {
            use native::rd_kafka_AclOperation_t::*;
            let may = std::slice::from_raw_parts(operations, count);
            let has = |operation| may.contains(&operation);
            Rights {
                read: has(RD_KAFKA_ACL_OPERATION_READ),
                write: has(RD_KAFKA_ACL_OPERATION_WRITE),
                describe_configs: has(RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS),
            }
        });
        (code, bits, rights)
    };
    match code.filter(|code| *code as i32 != 0).map(RDKafkaErrorCode::from) {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            return Err(IdError::Missing);
        }
        Some(code) => return Err(IdError::Refused(code)),
        None => {}
    }
    let (most, least) = id.filter(|bits| *bits != (0, 0)).ok_or(IdError::NoIds)?;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&most.to_be_bytes());
    bytes[8..].copy_from_slice(&least.to_be_bytes());
    Ok(Described { id: bytes, rights })
}

/// Makes a producer fail for good, as a broken sequence would; for tests.
#[doc(hidden)]
pub fn provoke_fatal<C: ClientContext>(client: &Client<C>) {
    let code = native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    // SAFETY: the client lives as long as `client`, and the text ends with a zero byte.
    unsafe { native::rd_kafka_test_fatal_error(client.native_ptr(), code, c"provoked".as_ptr()) };
}
