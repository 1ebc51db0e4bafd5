//! How records look to a person or to a program that reads lines: [`json`] exactly as the table of fields says, [`line`] for the eye,
//! [`condition`] to choose among them. Text in, text out; what is written where is decided by the caller.

pub mod condition;
pub mod json;
pub mod line;

/// Writes whole seconds since the Unix epoch as `YYYY-MM-DDTHH:MM:SS`, remembering the last one: records come thousands a second.
#[derive(Debug, Default)]
struct Seconds {
    last: Option<u64>,
    text: String,
}

impl Seconds {
    fn text(&mut self, seconds: u64) -> &str {
        if self.last != Some(seconds) {
            self.last = Some(seconds);
            self.text = date_and_time(seconds);
        }
        &self.text
    }
}

fn date_and_time(seconds: u64) -> String {
    match i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
        Some(timestamp) => timestamp.to_string().trim_end_matches('Z').to_owned(),
        // Beyond the year 9999: no capture says so honestly, and the number is worth more than a lie.
        None => seconds.to_string(),
    }
}
