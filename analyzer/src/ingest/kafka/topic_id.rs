//! The id that brokers give a topic when it is made: another for each incarnation of a name.
//!
//! librdkafka knows it (DescribeTopics), its Rust wrapper does not hand it out, hence the calls by hand. The one misuse: calling
//! [`describe`] from a callback of the same client, which would wait for itself.

use std::ffi::{CStr, CString, c_char, c_int};
use std::time::Duration;

use rdkafka::bindings as raw;

/// What brokers before 2.8 answer: all zeros.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Why there is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescribeError {
    /// The name cannot be a topic's.
    #[error("a topic's name holds no zero byte")]
    Name,
    /// There is no such topic.
    #[error("the topic is missing")]
    Missing,
    /// The brokers did not answer, or not with this.
    #[error("{0}")]
    Failed(String),
}

/// Frees what librdkafka made, whatever way a function is left.
struct Owned<T> {
    pointer: *mut T,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, free: unsafe extern "C" fn(*mut T), what: &str) -> Result<Self, DescribeError> {
        if pointer.is_null() { Err(DescribeError::Failed(format!("librdkafka made no {what}"))) } else { Ok(Self { pointer, free }) }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from librdkafka, is not null, and is freed once, by the function made for it.
        unsafe { (self.free)(self.pointer) }
    }
}

/// The id of `topic`; "0" where brokers give none, so that such a topic counts as the same for ever.
pub fn describe(client: *mut raw::rd_kafka_t, topic: &str, timeout: Duration) -> Result<String, DescribeError> {
    let name = CString::new(topic).map_err(|_| DescribeError::Name)?;
    let mut names = [name.as_ptr()];
    let milliseconds = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: `client` is alive for the call (its owner calls this), every object is checked for null and freed by its own
    // function after its last use, and texts are copied before their owner is freed.
    unsafe {
        let topics = Owned::new(
            raw::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()),
            raw::rd_kafka_TopicCollection_destroy,
            "collection of topics",
        )?;
        let options = Owned::new(
            raw::rd_kafka_AdminOptions_new(client, raw::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            raw::rd_kafka_AdminOptions_destroy,
            "options",
        )?;
        let mut problem = [0 as c_char; 256];
        raw::rd_kafka_AdminOptions_set_request_timeout(options.pointer, milliseconds, problem.as_mut_ptr(), problem.len());
        let queue = Owned::new(raw::rd_kafka_queue_new(client), raw::rd_kafka_queue_destroy, "queue")?;
        raw::rd_kafka_DescribeTopics(client, topics.pointer, options.pointer, queue.pointer);
        let event = raw::rd_kafka_queue_poll(queue.pointer, milliseconds.saturating_add(1_000));
        let event = Owned::new(event, raw::rd_kafka_event_destroy, "answer in time")?;
        if raw::rd_kafka_event_error(event.pointer) != raw::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(DescribeError::Failed(text(raw::rd_kafka_event_error_string(event.pointer))));
        }
        let result = raw::rd_kafka_event_DescribeTopics_result(event.pointer);
        let mut count = 0;
        let described =
            if result.is_null() { std::ptr::null_mut() } else { raw::rd_kafka_DescribeTopics_result_topics(result, &mut count) };
        if described.is_null() || count == 0 {
            return Err(DescribeError::Failed("the brokers described no topic".to_owned()));
        }
        id_of(*described)
    }
}

/// # Safety
/// `topic` is a description that its result still owns.
unsafe fn id_of(topic: *const raw::rd_kafka_TopicDescription_t) -> Result<String, DescribeError> {
    // SAFETY: see above; what is read lives as long as the description.
    unsafe {
        let error = raw::rd_kafka_TopicDescription_error(topic);
        let code = raw::rd_kafka_error_code(error);
        if code == raw::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART {
            return Err(DescribeError::Missing);
        }
        if code != raw::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(DescribeError::Failed(text(raw::rd_kafka_error_string(error))));
        }
        let id = raw::rd_kafka_TopicDescription_topic_id(topic);
        let id = if id.is_null() { String::new() } else { text(raw::rd_kafka_Uuid_base64str(id)) };
        Ok(if id.is_empty() || id == NO_ID { "0".to_owned() } else { id })
    }
}

/// # Safety
/// `pointer` is null or a C string that lives during the call.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: see above.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
