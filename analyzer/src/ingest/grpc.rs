//! `podtap.v1.Ingest`: takes batches over gRPC into the analyzer's own log and acknowledges what is on the disk.
//!
//! Acknowledgements are cumulative within a stream and sent in order. Batches are not decoded here: what is no batch is counted
//! when the log is folded. When the disk is full or the store far behind, streams are simply not read on.

use std::sync::Arc;

use podtap_wire::proto::ingest_server::{Ingest, IngestServer};
use podtap_wire::proto::{Ack, Envelope};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::segment_log::{MAX_ENTRY_BYTES, SegmentLog};

/// Batches of one stream that may wait for the disk.
const UNACKNOWLEDGED: usize = 256;

/// The service.
#[derive(Clone, Debug)]
pub struct IngestService {
    log: Arc<SegmentLog>,
}

impl IngestService {
    /// The service over a log, ready to be mounted.
    pub fn server(log: Arc<SegmentLog>) -> IngestServer<Self> {
        // The envelope adds a few bytes to its batch.
        IngestServer::new(Self { log }).max_decoding_message_size(MAX_ENTRY_BYTES + 1024)
    }
}

type Waiting = (u64, oneshot::Receiver<Result<u64, String>>);

#[tonic::async_trait]
impl Ingest for IngestService {
    type DeliverStream = ReceiverStream<Result<Ack, Status>>;

    async fn deliver(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Self::DeliverStream>, Status> {
        let (acks, stream) = mpsc::channel(UNACKNOWLEDGED);
        let (waiting, appended) = mpsc::channel(UNACKNOWLEDGED);
        tokio::spawn(append(Arc::clone(&self.log), request.into_inner(), waiting, acks.clone()));
        tokio::spawn(acknowledge(appended, acks));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn append(
    log: Arc<SegmentLog>,
    mut inbound: Streaming<Envelope>,
    waiting: mpsc::Sender<Waiting>,
    acks: mpsc::Sender<Result<Ack, Status>>,
) {
    loop {
        let envelope = match inbound.message().await {
            Ok(Some(envelope)) => envelope,
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%status, "a sender's stream broke");
                return;
            }
        };
        if envelope.batch.len() > MAX_ENTRY_BYTES {
            let status =
                Status::invalid_argument(format!("a batch of {} bytes, at most {MAX_ENTRY_BYTES} are taken", envelope.batch.len()));
            // The stream ends either way.
            let _ = acks.send(Err(status)).await;
            return;
        }
        match log.append(envelope.batch).await {
            Ok(offset) => {
                if waiting.send((envelope.sequence, offset)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // The stream ends either way.
                let _ = acks.send(Err(Status::unavailable(error.to_string()))).await;
                return;
            }
        }
    }
}

async fn acknowledge(mut appended: mpsc::Receiver<Waiting>, acks: mpsc::Sender<Result<Ack, Status>>) {
    while let Some((sequence, offset)) = appended.recv().await {
        let answer = match offset.await {
            Ok(Ok(_offset)) => Ok(Ack { sequence }),
            Ok(Err(error)) => Err(Status::unavailable(error)),
            Err(_closed) => Err(Status::unavailable("the analyzer is stopping")),
        };
        let ends = answer.is_err();
        if acks.send(answer).await.is_err() || ends {
            return;
        }
    }
}
