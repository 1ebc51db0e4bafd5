//! Transport `grpc`: one stream of `Ingest.Deliver` straight to an analyzer.
//!
//! Batches go in order; acknowledgements are cumulative, which only means something among the batches of one boot: a stream carries one
//! boot. A stream that ends, for whatever reason, is answered by a new one that starts from the oldest batch that is not acknowledged.

use std::collections::VecDeque;
use std::sync::mpsc as blocking;
use std::time::Duration;

use podtap_wire::proto::Envelope;
use podtap_wire::proto::ingest_client::IngestClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::{Batch, BatchId, LinkState, Offer, Sink, SinkEvent};

/// Batches on the wire at a time.
const MAX_IN_FLIGHT: usize = 32;
/// Streams in a row that may end with "invalid argument" on the same batch before that batch is given up.
const MAX_REFUSALS: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

enum FromStream {
    Connected(mpsc::Sender<Envelope>),
    Acknowledged(u64),
    Ended { reason: String, invalid: bool },
}

/// The sink.
pub struct GrpcSink {
    events: blocking::Receiver<FromStream>,
    outgoing: Option<mpsc::Sender<Envelope>>,
    boot: Option<[u8; 16]>,
    in_flight: VecDeque<BatchId>,
    refusals: u32,
    state: LinkState,
}

impl GrpcSink {
    /// Starts connecting; does not wait. Fails on an address that is none.
    pub fn new(endpoint: &str, runtime: &tokio::runtime::Handle) -> Result<Self, String> {
        let address = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| format!("{endpoint:?} is no address: {error}"))?;
        if address.uri().scheme_str() != Some("http") || address.uri().port().is_none() {
            return Err(format!("{endpoint:?} is not of the form http://HOST:PORT"));
        }
        let address = address
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let (sender, events) = blocking::channel();
        runtime.spawn(keep_connected(address, sender));
        let state = LinkState::Down(format!("{endpoint} has not answered yet"));
        Ok(Self { events, outgoing: None, boot: None, in_flight: VecDeque::new(), refusals: 0, state })
    }

    fn handle(&mut self, event: FromStream, events: &mut Vec<SinkEvent>) {
        match event {
            FromStream::Connected(outgoing) => {
                self.outgoing = Some(outgoing);
                self.boot = None;
                self.state = LinkState::Up;
            }
            FromStream::Acknowledged(sequence) => {
                self.refusals = 0;
                while let Some(id) = self.in_flight.front().copied().filter(|id| id.sequence <= sequence) {
                    self.in_flight.pop_front();
                    events.push(SinkEvent::Acknowledged(id));
                }
            }
            FromStream::Ended { reason, invalid } => {
                self.outgoing = None;
                self.refusals = if invalid { self.refusals + 1 } else { 0 };
                if self.refusals >= MAX_REFUSALS
                    && let Some(id) = self.in_flight.front()
                {
                    self.refusals = 0;
                    tracing::error!("the analyzer refuses batch {}: {reason}", id.sequence);
                    events.push(SinkEvent::Refused(*id, "rejected"));
                }
                self.in_flight.clear();
                self.state = LinkState::Down(reason);
                events.push(SinkEvent::Restart);
            }
        }
    }
}

impl Sink for GrpcSink {
    fn offer(&mut self, batch: &Batch) -> Offer {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return Offer::Busy;
        }
        let Some(outgoing) = &self.outgoing else { return Offer::Busy };
        if self.boot.is_some_and(|boot| boot != batch.id.boot) {
            if self.in_flight.is_empty() {
                // Closing our half ends the stream in good order; the next one is for this boot.
                self.outgoing = None;
            }
            return Offer::Busy;
        }
        match outgoing.try_send(Envelope { batch: batch.bytes.clone(), sequence: batch.id.sequence }) {
            Ok(()) => {
                self.boot = Some(batch.id.boot);
                self.in_flight.push_back(batch.id);
                Offer::Taken
            }
            // Full: later. Closed: the stream's end is on its way as an event.
            Err(_) => Offer::Busy,
        }
    }

    fn poll(&mut self, timeout: Duration, events: &mut Vec<SinkEvent>) {
        let mut next = self.events.recv_timeout(timeout).ok();
        while let Some(event) = next {
            self.handle(event, events);
            next = self.events.try_recv().ok();
        }
    }

    fn state(&self) -> LinkState {
        self.state.clone()
    }
}

async fn keep_connected(endpoint: Endpoint, events: blocking::Sender<FromStream>) {
    let mut backoff = BACKOFF.0;
    loop {
        let ended = match stream(&endpoint, &events, &mut backoff).await {
            Ok(()) => FromStream::Ended { reason: "the stream was closed".to_owned(), invalid: false },
            Err(status) => {
                let reason = format!("{}: {}", endpoint.uri(), explain(&status));
                FromStream::Ended { reason, invalid: status.code() == tonic::Code::InvalidArgument }
            }
        };
        if events.send(ended).is_err() {
            return; // The sink is gone.
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

async fn stream(endpoint: &Endpoint, events: &blocking::Sender<FromStream>, backoff: &mut Duration) -> Result<(), tonic::Status> {
    let channel = endpoint.connect().await.map_err(|error| tonic::Status::unavailable(chain(&error)))?;
    let mut client = IngestClient::new(channel);
    let (sender, receiver) = mpsc::channel(MAX_IN_FLIGHT);
    // The server may answer the call only when the first batch has come, so batches are wanted before its answer.
    if events.send(FromStream::Connected(sender)).is_err() {
        return Ok(());
    }
    let mut acknowledgements = client.deliver(ReceiverStream::new(receiver)).await?.into_inner();
    while let Some(acknowledgement) = acknowledgements.message().await? {
        *backoff = BACKOFF.0;
        if events.send(FromStream::Acknowledged(acknowledgement.sequence)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn explain(status: &tonic::Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
