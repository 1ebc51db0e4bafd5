//! The request's body on the blocking side: a reader over the chunks that arrive, decoded as the request says.
//!
//! Guarantee: at most [`CHUNKS`] chunks wait in memory; a client that goes away in the middle is an error, never an end, so
//! a cut INSERT is not taken for a whole one. The one misuse: reading it on an async thread (it blocks).

use std::io::{self, Read};

use axum::body::{Body, Bytes};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use super::compression::{BlockReader, Encoding, ReadError};
use super::exception::{Exception, NETWORK_ERROR, QUERY_IS_TOO_LARGE};

/// Chunks that wait between the network and the reader.
const CHUNKS: usize = 8;
/// Everything a form may hold: queries, parameters and external tables.
const MAX_FORM: u64 = 64 << 20;

struct ChunkReader {
    chunks: mpsc::Receiver<Result<Bytes, axum::Error>>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                None => return Ok(0),
                Some(Ok(chunk)) => self.current = chunk,
                Some(Err(error)) => {
                    let text = format!("the request's body was cut: {error}");
                    return Err(io::Error::other(ReadError(Exception::new(NETWORK_ERROR, text))));
                }
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

/// The body, decoded: first its content encoding, then ClickHouse's blocks.
pub struct RequestBody {
    /// As received; until the first read.
    encoded: Option<ChunkReader>,
    encoding: Option<Encoding>,
    blocks: bool,
    decoded: Option<Box<dyn Read + Send>>,
}

impl RequestBody {
    /// Starts to receive; must be called within the runtime.
    pub fn receive(body: Body, encoding: Option<Encoding>, blocks: bool) -> Self {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        tokio::spawn(async move {
            let mut stream = body.into_data_stream();
            while let Some(chunk) = stream.next().await {
                // A closed channel: the query ended before its body, whose rest nobody needs.
                if sender.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        Self { encoded: Some(ChunkReader { chunks, current: Bytes::new() }), encoding, blocks, decoded: None }
    }

    /// Up to `limit` bytes, and whether the body ended with them.
    pub fn head(&mut self, limit: usize) -> Result<(Vec<u8>, bool), Exception> {
        let mut head = Vec::new();
        self.take(limit as u64 + 1).read_to_end(&mut head).map_err(|error| exception(&error))?;
        let complete = head.len() <= limit;
        Ok((head, complete))
    }

    /// All of a form.
    pub fn form(&mut self) -> Result<Vec<u8>, Exception> {
        let mut form = Vec::new();
        self.take(MAX_FORM + 1).read_to_end(&mut form).map_err(|error| exception(&error))?;
        match form.len() as u64 > MAX_FORM {
            true => Err(Exception::new(QUERY_IS_TOO_LARGE, format!("a form of more than {MAX_FORM} bytes"))),
            false => Ok(form),
        }
    }
}

impl Read for RequestBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Decoders read as soon as they are made, so they are made here, where reading may block.
        if let Some(reader) = self.encoded.take() {
            let reader: Box<dyn Read + Send> = match self.encoding {
                Some(encoding) => encoding.decoder(reader)?,
                None => Box::new(reader),
            };
            self.decoded = Some(if self.blocks { Box::new(BlockReader::new(reader)) } else { reader });
        }
        match &mut self.decoded {
            Some(reader) => reader.read(buffer),
            None => Err(io::Error::other("the body cannot be decoded")),
        }
    }
}

/// The exception behind an error of reading the body.
pub fn exception(error: &io::Error) -> Exception {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ReadError>()) {
        Some(ReadError(exception)) => exception.clone(),
        None => Exception::new(super::exception::CANNOT_DECOMPRESS, format!("Cannot read the request's body: {error}")),
    }
}
