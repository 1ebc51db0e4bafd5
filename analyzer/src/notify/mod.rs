//! Telling people: a notification is handed to a receiver's [`Notifier`], tried again while that makes sense, and counted.
//!
//! Receivers are independent of each other: each has its own queue and task, a slow one delays nobody. Guarantee: at least once
//! across a crash, because an alarm is marked as told only after its receivers have it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::alarm::state::Alarm;
use crate::telemetry::Telemetry;

pub mod webhook;

/// Notifications that wait for one receiver; of more, the evaluation tries again later.
const QUEUED: usize = 256;
/// Attempts before a notification is left to a later evaluation.
const ATTEMPTS: u32 = 6;
/// What may become of a notification; `retried` more than once.
pub const OUTCOMES: &[&str] = &["delivered", "refused", "retried", "failed", "queue_full"];
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// News about the alarms of one rule: those open and those just over.
#[derive(Clone, Debug, PartialEq)]
pub struct Notification {
    /// Who is told.
    pub receiver: String,
    /// Name of the rule.
    pub rule: String,
    /// What the rule says for people.
    pub summary: String,
    /// The alarms, by target.
    pub alarms: Vec<Alarm>,
}

/// Why it was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotifyError {
    /// Whether another attempt may succeed.
    pub retriable: bool,
    /// What happened, without secrets of the URL.
    pub message: String,
}

/// A boxed future.
pub type NotifyFuture<'a> = Pin<Box<dyn Future<Output = Result<(), NotifyError>> + Send + 'a>>;

/// Something that delivers notifications.
pub trait Notifier: Send + Sync {
    /// Delivers once.
    fn deliver<'a>(&'a self, notification: &'a Notification) -> NotifyFuture<'a>;
}

/// What became of a notification.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The notification.
    pub notification: Notification,
    /// True if nothing is left to do: it was taken, or refused for good.
    pub finished: bool,
}

/// The receivers' queues.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    queues: BTreeMap<String, mpsc::Sender<Notification>>,
}

impl Dispatcher {
    /// Starts a task for each receiver; deliveries are reported on `reports`.
    pub fn start(
        notifiers: impl IntoIterator<Item = (String, Arc<dyn Notifier>)>,
        telemetry: &Arc<Telemetry>,
        reports: &mpsc::UnboundedSender<Delivery>,
    ) -> Self {
        let queues = notifiers.into_iter().map(|(name, notifier)| {
            let (sender, queue) = mpsc::channel(QUEUED);
            tokio::spawn(serve(notifier, queue, Arc::clone(telemetry), reports.clone()));
            (name, sender)
        });
        Self { queues: queues.collect() }
    }

    /// Queues a notification; false if its receiver is unknown or its queue full.
    pub fn send(&self, notification: Notification) -> bool {
        self.queues.get(&notification.receiver).is_some_and(|queue| queue.try_send(notification).is_ok())
    }
}

async fn serve(
    notifier: Arc<dyn Notifier>,
    mut queue: mpsc::Receiver<Notification>,
    telemetry: Arc<Telemetry>,
    reports: mpsc::UnboundedSender<Delivery>,
) {
    while let Some(notification) = queue.recv().await {
        let finished = deliver(&*notifier, &notification, &telemetry).await;
        if reports.send(Delivery { notification, finished }).is_err() {
            return;
        }
    }
}

/// Tries until it is taken, refused for good, or tried often enough; returns whether nothing is left to do.
async fn deliver(notifier: &dyn Notifier, notification: &Notification, telemetry: &Telemetry) -> bool {
    let receiver = notification.receiver.as_str();
    let mut pause = FIRST_PAUSE;
    for attempt in 1..=ATTEMPTS {
        match notifier.deliver(notification).await {
            Ok(()) => {
                telemetry.notified(receiver, "delivered");
                return true;
            }
            Err(error) if !error.retriable => {
                telemetry.notified(receiver, "refused");
                tracing::error!(receiver, rule = notification.rule, %error, "a receiver refused a notification");
                return true;
            }
            Err(error) => {
                telemetry.notified(receiver, "retried");
                tracing::warn!(receiver, rule = notification.rule, %error, attempt, "a notification was not delivered");
            }
        }
        if attempt < ATTEMPTS {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
    telemetry.notified(receiver, "failed");
    false
}
