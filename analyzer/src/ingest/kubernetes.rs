//! Watches pods, services, EndpointSlices and nodes, and keeps who had which address when: for naming peers at the time of a record.
//!
//! Guarantee: what happened is stored, late if ClickHouse or the API server are away: what was missed is listed again, and what vanished
//! meanwhile ends where the watch was last complete. Nothing that counts depends on it. The one misuse: naming by what an address is
//! now; the tables say what it was.

pub mod intervals;
pub mod object;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use self::intervals::{Interval, Intervals, Kind, Millis, Observation, Slice, Workload};
use self::object::Kubelet;
use crate::inject::cluster::{by_kubeconfig, by_service_account};
use crate::store::clickhouse::ClickHouse;
use crate::telemetry::Telemetry;

/// News that wait to be handled; then the API server's stream waits.
const NEWS: usize = 1_024;
const TICK: Duration = Duration::from_secs(1);
/// How often it is stored how far the watch came.
const COMPLETE_EVERY: Millis = 15_000;
const RETRY: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A watch that failed and did not fail again for so long goes on: it tries at least every 30 seconds.
const MENDED_AFTER: Millis = 90_000;

/// How Kubernetes is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// With the service account of this pod.
    InCluster,
    /// With a kubeconfig file and its current context.
    Kubeconfig(PathBuf),
}

impl Access {
    /// How to connect.
    pub async fn config(&self) -> Result<kube::Config, String> {
        let mut config = match self {
            Self::InCluster => by_service_account()?,
            Self::Kubeconfig(path) => by_kubeconfig(path).await?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        Ok(config)
    }
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// EndpointSlices.
    EndpointSlices,
    /// Nodes.
    Nodes,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pods, Self::Services, Self::EndpointSlices, Self::Nodes];

    /// Label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
        }
    }

    const fn kind(self) -> Option<Kind> {
        match self {
            Self::Pods => Some(Kind::Pod),
            Self::Services => Some(Kind::Service),
            Self::Nodes => Some(Kind::Node),
            Self::EndpointSlices => None,
        }
    }
}

/// Why a watch failed: labels in metrics.
pub const WATCH_FAILURES: [&str; 5] = ["unreachable", "unauthorized", "forbidden", "expired", "refused"];

fn reason(error: &watcher::Error) -> &'static str {
    let code = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code,
        _ => return "unreachable",
    };
    match code {
        401 => "unauthorized",
        403 => "forbidden",
        410 => "expired",
        _ => "refused",
    }
}

/// What is known now, for those who read kubelets.
#[derive(Debug, Default)]
pub struct Directory(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    pods: HashMap<(String, String), Workload>,
    listed: HashSet<(String, String)>,
    kubelets: BTreeMap<String, Kubelet>,
    listed_nodes: HashSet<String>,
}

impl Directory {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The owner of a pod that is there.
    pub fn workload(&self, namespace: &str, pod: &str) -> Option<Workload> {
        self.known().pods.get(&(namespace.to_owned(), pod.to_owned())).cloned()
    }

    /// All kubelets.
    pub fn kubelets(&self) -> Vec<Kubelet> {
        self.known().kubelets.values().cloned().collect()
    }

    fn note(&self, resource: Resource, event: &Event) {
        let mut known = self.known();
        match (resource, event) {
            (Resource::Pods, Event::Begin) => known.listed.clear(),
            (Resource::Pods, Event::End) => {
                let Known { pods, listed, .. } = &mut *known;
                pods.retain(|pod, _| listed.contains(pod));
            }
            (Resource::Nodes, Event::Begin) => known.listed_nodes.clear(),
            (Resource::Nodes, Event::End) => {
                let Known { kubelets, listed_nodes, .. } = &mut *known;
                kubelets.retain(|node, _| listed_nodes.contains(node));
            }
            (Resource::Pods, Event::Object(Fact::Object(seen, _), gone)) => {
                let pod = (seen.namespace.clone(), seen.name.clone());
                if *gone {
                    known.pods.remove(&pod);
                } else {
                    known.listed.insert(pod.clone());
                    known.pods.insert(pod, seen.workload.clone());
                }
            }
            (Resource::Nodes, Event::Object(Fact::Object(seen, kubelet), gone)) => {
                known.listed_nodes.insert(seen.name.clone());
                match kubelet.as_ref().filter(|_| !gone) {
                    Some(kubelet) => known.kubelets.insert(seen.name.clone(), kubelet.clone()),
                    None => known.kubelets.remove(&seen.name),
                };
            }
            _ => {}
        }
    }
}

#[derive(Debug)]
enum Fact {
    Object(Box<Observation>, Option<Kubelet>),
    Slice(Slice),
}

#[derive(Debug)]
enum Event {
    Begin,
    /// As it is, or as it was last.
    Object(Fact, bool),
    End,
    Failed,
}

struct News {
    resource: Resource,
    event: Event,
}

fn now_ms() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    Millis::try_from(now).unwrap_or(Millis::MAX)
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Fails only when the sender is gone, which is the end as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// How complete the watch of one resource is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// A list was complete once.
    listed: bool,
    /// Another one is not complete yet.
    listing: bool,
    /// When it was first behind since it last gave something, and when it failed last.
    behind: Option<(Millis, Millis)>,
}

impl Progress {
    fn note(&mut self, event: &Event, now: Millis) {
        match event {
            Event::Failed => self.behind = Some((self.behind.map_or(now, |(first, _)| first), now)),
            Event::Begin => {
                self.behind = Some((self.behind.map_or(now, |(first, _)| first), now));
                self.listing = true;
            }
            Event::End => *self = Self { listed: true, listing: false, behind: None },
            Event::Object(..) if !self.listing => self.behind = None,
            Event::Object(..) => {}
        }
    }

    /// Until when nothing was missed, if it ever was complete.
    fn complete_to(&mut self, now: Millis) -> Option<Millis> {
        if !self.listing && self.behind.is_some_and(|(_, last)| now - last > MENDED_AFTER) {
            self.behind = None;
        }
        self.listed.then_some(self.behind.map_or(now, |(first, _)| first))
    }
}

/// The watch.
pub struct Watch {
    /// How to connect.
    pub config: kube::Config,
    /// Where to store.
    pub clickhouse: ClickHouse,
    /// What others want to know.
    pub directory: Arc<Directory>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
}

/// A row's key.
type RowKey = (IpAddr, Kind, String, u16);

struct State {
    intervals: Intervals,
    progress: BTreeMap<Resource, Progress>,
    /// Rows that are not stored yet, the newest of each key.
    unstored: HashMap<RowKey, Interval>,
    complete_stored_at: Millis,
}

impl Watch {
    /// Runs until told to stop. Fails only if no client can be made of the configuration.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), String> {
        let client = Client::try_from(self.config.clone()).map_err(|error| error.to_string())?;
        let Some(mut state) = self.resume(stop.clone()).await else { return Ok(()) };
        let (sender, mut news) = mpsc::channel(NEWS);
        let mut watches = self.start(&client, &sender);
        drop(sender);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(NEWS);
        loop {
            tokio::select! {
                received = news.recv_many(&mut batch, NEWS) => {
                    if received == 0 {
                        // A watch never ends by itself: it panicked, and so did the others or they would still send.
                        return Err("the watches ended".to_owned());
                    }
                    batch.drain(..).for_each(|news| self.handle(&mut state, news));
                }
                _ = tick.tick() => self.store(&mut state).await,
                () = stopped(&mut stop) => {
                    watches.abort_all();
                    self.store(&mut state).await;
                    return Ok(());
                }
            }
        }
    }

    /// Reads what is stored, until ClickHouse answers; `None` if told to stop before.
    async fn resume(&self, mut stop: watch::Receiver<bool>) -> Option<State> {
        loop {
            match self.clickhouse.owners().await {
                Ok(stored) => {
                    if stored.unreadable > 0 {
                        self.telemetry.kubernetes_dropped("unreadable_row", stored.unreadable);
                    }
                    let mut intervals = Intervals::default();
                    tracing::info!(intervals = stored.intervals.len(), "watching Kubernetes");
                    intervals.restore(stored.intervals, stored.complete_to);
                    let progress = Resource::ALL.into_iter().map(|resource| (resource, Progress::default())).collect();
                    return Some(State { intervals, progress, unstored: HashMap::new(), complete_stored_at: 0 });
                }
                Err(error) => {
                    self.telemetry.store_error(&error);
                    tracing::warn!(%error, "cannot read who had which address");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = stop.wait_for(|stop| *stop) => return None,
            }
        }
    }

    fn start(&self, client: &Client, news: &mpsc::Sender<News>) -> JoinSet<()> {
        let mut watches = JoinSet::new();
        let source = |resource| Source { resource, news: news.clone(), telemetry: Arc::clone(&self.telemetry) };
        let observed = |seen: Option<Observation>| seen.map(|seen| Fact::Object(Box::new(seen), None));
        watches.spawn(source(Resource::Pods).run(Api::<Pod>::all(client.clone()), move |pod, gone| observed(object::pod(pod, gone))));
        watches.spawn(
            source(Resource::Services).run(Api::<Service>::all(client.clone()), move |service, _| observed(object::service(service))),
        );
        watches.spawn(
            source(Resource::EndpointSlices)
                .run(Api::<EndpointSlice>::all(client.clone()), |slice, _| object::slice(slice).map(Fact::Slice)),
        );
        watches.spawn(source(Resource::Nodes).run(Api::<Node>::all(client.clone()), |node, _| {
            object::node(node).map(|seen| Fact::Object(Box::new(seen), object::kubelet(node)))
        }));
        watches
    }

    fn handle(&self, state: &mut State, News { resource, event }: News) {
        let now = now_ms();
        self.directory.note(resource, &event);
        let progress = state.progress.entry(resource).or_default();
        progress.note(&event, now);
        if matches!(event, Event::Begin)
            && let (Some(kind), Some(to)) = (resource.kind(), progress.complete_to(now))
        {
            state.intervals.set_complete(kind, to);
        }
        let intervals = &mut state.intervals;
        match (event, resource.kind()) {
            (Event::Begin, Some(kind)) => intervals.handle_list_begin(kind),
            (Event::Begin, None) => intervals.handle_slices_begin(),
            (Event::End, Some(kind)) => intervals.handle_list_end(kind, now),
            (Event::End, None) => intervals.handle_slices_end(now),
            (Event::Object(Fact::Object(seen, _), gone), _) => intervals.handle_object(&seen, gone, now),
            (Event::Object(Fact::Slice(slice), gone), _) => intervals.handle_slice(slice, gone, now),
            (Event::Failed, _) => {}
        }
    }

    /// Stores what changed, then how far the watch came; what cannot be stored now is tried again the next time.
    async fn store(&self, state: &mut State) {
        let now = now_ms();
        state.intervals.settle(now);
        for interval in state.intervals.take_changes() {
            state.unstored.insert((interval.address, interval.kind, interval.uid.clone(), interval.ordinal), interval);
        }
        self.telemetry.kubernetes_dropped("objects_full", state.intervals.take_dropped());
        let mut complete = Vec::new();
        for (resource, progress) in &mut state.progress {
            let complete_to = progress.complete_to(now);
            self.telemetry.kubernetes_lag(*resource, complete_to.map(|to| (now - to).max(0) / 1_000));
            complete.extend(resource.kind().zip(complete_to));
        }
        self.telemetry.kubernetes_objects(state.intervals.objects(), state.unstored.len());
        if !state.unstored.is_empty() {
            if let Err(error) = self.clickhouse.write_owners(state.unstored.values()).await {
                self.telemetry.store_error(&error);
                tracing::warn!(%error, rows = state.unstored.len(), "cannot store who had which address; it is tried again");
                return;
            }
            self.telemetry.kubernetes_rows(state.unstored.len());
            state.unstored.clear();
        }
        if now - state.complete_stored_at >= COMPLETE_EVERY && !complete.is_empty() {
            match self.clickhouse.write_complete_to(&complete).await {
                Ok(()) => state.complete_stored_at = now,
                Err(error) => {
                    self.telemetry.store_error(&error);
                    tracing::warn!(%error, "cannot store how far the watch of Kubernetes came");
                }
            }
        }
    }
}

/// One watch: lists, follows, lists again when the API server has forgotten where it was, waits longer and longer when it fails.
struct Source {
    resource: Resource,
    news: mpsc::Sender<News>,
    telemetry: Arc<Telemetry>,
}

impl Source {
    async fn run<K>(self, api: Api<K>, read: impl Fn(&K, bool) -> Option<Fact> + Send)
    where
        K: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(watcher::Event::Init) => {
                    self.telemetry.kubernetes_listed(self.resource);
                    Some(Event::Begin)
                }
                Ok(watcher::Event::InitDone) => Some(Event::End),
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => self.fact(read(&object, false), false),
                Ok(watcher::Event::Delete(object)) => self.fact(read(&object, true), true),
                Err(error) => {
                    let reason = reason(&error);
                    self.telemetry.kubernetes_watch_failed(self.resource, reason);
                    tracing::warn!(resource = self.resource.as_str(), reason, %error, "the watch failed; it is begun again");
                    Some(Event::Failed)
                }
            };
            let Some(event) = event else { continue };
            if self.news.send(News { resource: self.resource, event }).await.is_err() {
                return;
            }
        }
    }

    fn fact(&self, fact: Option<Fact>, gone: bool) -> Option<Event> {
        self.telemetry.kubernetes_event(self.resource);
        if fact.is_none() {
            // A slice that is no service's, or an object without what every object has.
            self.telemetry.kubernetes_dropped("no_use", 1);
        }
        fact.map(|fact| Event::Object(fact, gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_watch_came() {
        let mut progress = Progress::default();
        assert_eq!(progress.complete_to(1_000), None);
        progress.note(&Event::Begin, 1_000);
        progress.note(&Event::End, 2_000);
        assert_eq!(progress.complete_to(3_000), Some(3_000));
        progress.note(&Event::Failed, 4_000);
        progress.note(&Event::Failed, 20_000);
        assert_eq!(progress.complete_to(30_000), Some(4_000));
        let mut mended = progress;
        assert_eq!(mended.complete_to(20_000 + MENDED_AFTER + 1), Some(20_000 + MENDED_AFTER + 1), "it would have failed again by now");
        // A list does not make up for what was missed until it is complete, however often it begins.
        for now in [40_000, 200_000, 400_000] {
            progress.note(&Event::Begin, now);
            assert_eq!(progress.complete_to(now + 150_000), Some(4_000));
        }
        progress.note(&Event::End, 600_000);
        assert_eq!(progress.complete_to(700_000), Some(700_000));
    }

    #[test]
    fn reasons_are_those_of_the_metrics() {
        let status = |code| {
            let status = kube::core::Status::failure("no", "no").with_code(code);
            reason(&watcher::Error::WatchError(Box::new(status)))
        };
        for (code, expect) in [(401, "unauthorized"), (403, "forbidden"), (410, "expired"), (500, "refused")] {
            assert_eq!(status(code), expect);
            assert!(WATCH_FAILURES.contains(&expect));
        }
        assert_eq!(reason(&watcher::Error::NoResourceVersion), "unreachable");
    }
}
