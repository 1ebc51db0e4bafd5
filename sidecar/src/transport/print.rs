//! Transport `print`: records on standard output, one JSON object a line, to look at what would be sent.

use std::io::Write;
use std::time::Duration;

use podtap_wire::DecodedBatch;

use super::{Batch, LinkState, Offer, Sink, SinkEvent};
use crate::print::json::JsonLines;

/// The sink. A broken pipe ends the run in good order.
pub struct PrintSink<W> {
    output: W,
    json: JsonLines,
    events: Vec<SinkEvent>,
    state: LinkState,
}

impl<W: Write + Send> PrintSink<W> {
    /// Prints to `output`.
    pub fn new(output: W) -> Self {
        Self { output, json: JsonLines::default(), events: Vec::new(), state: LinkState::Up }
    }

    fn print(&mut self, batch: &DecodedBatch) -> std::io::Result<()> {
        for record in batch.records() {
            self.output.write_all(self.json.line(&record))?;
        }
        self.output.flush()
    }
}

impl<W: Write + Send> Sink for PrintSink<W> {
    fn offer(&mut self, batch: &Batch) -> Offer {
        let Ok(decoded) = DecodedBatch::decode(&batch.bytes) else { return Offer::Refused("undecodable") };
        match self.print(&decoded) {
            Ok(()) => {
                self.events.push(SinkEvent::Acknowledged(batch.id));
                Offer::Taken
            }
            Err(error) => {
                if error.kind() == std::io::ErrorKind::BrokenPipe {
                    self.events.push(SinkEvent::Closed);
                }
                self.state = LinkState::Down(format!("standard output: {error}"));
                Offer::Busy
            }
        }
    }

    fn poll(&mut self, timeout: Duration, events: &mut Vec<SinkEvent>) {
        if self.events.is_empty() {
            std::thread::sleep(timeout);
        }
        events.append(&mut self.events);
    }

    fn state(&self) -> LinkState {
        self.state.clone()
    }
}
