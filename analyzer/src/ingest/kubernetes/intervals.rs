//! Who had an address, and when: what Kubernetes says of its objects becomes intervals, one owner at a time.
//!
//! Guarantee: whatever the order of events and restarts, intervals of an address never overlap, and none says who had it at a moment
//! for which that is not known: then it is nobody's. Times are the node's, of containers that began and ended, wherever there are any.
//! The one misuse: handling events before [`Intervals::restore`], which would give an interval that is stored already a second number.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// What an address can belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A pod with a network namespace of its own.
    Pod,
    /// A service's cluster address.
    Service,
    /// A node, and all pods that share its network.
    Node,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pod, Self::Service, Self::Node];

    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Service => "service",
            Self::Node => "node",
        }
    }

    /// The kind of a stored name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The owner of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// `Deployment`, `StatefulSet`, ...; `Pod` for a pod without an owner.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Milliseconds since the epoch.
pub type Millis = i64;

/// What an object says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Its kind.
    pub kind: Kind,
    /// Its UID.
    pub uid: String,
    /// Its namespace, empty for nodes.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Of a pod.
    pub workload: Workload,
    /// Of a pod, or the node itself.
    pub node: String,
    /// What it can be reached at and nobody else; empty for pods that share their node's network.
    pub addresses: Vec<IpAddr>,
    /// When the first of what can use the addresses began, by the node's clock in whole seconds; `None` while nothing has.
    pub began: Option<Millis>,
    /// When the addresses were last given: a pod whose sandbox is made anew keeps its UID and gets another address.
    pub given: Option<Millis>,
    /// Set once nothing of it runs any more: the end of the second in which the last of it ended, if that is known.
    pub ended: Option<Option<Millis>>,
}

/// An interval as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The address.
    pub address: IpAddr,
    /// What had it.
    pub kind: Kind,
    /// Its UID.
    pub uid: String,
    /// Number of the interval of this object and address.
    pub ordinal: u16,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Of a pod.
    pub workload: Workload,
    /// Node.
    pub node: String,
    /// Workloads behind a service, in order.
    pub backends: Vec<Workload>,
    /// First moment.
    pub from: Millis,
    /// First moment that is not in it; `None` while it lasts.
    pub to: Option<Millis>,
}

/// The pods that an EndpointSlice puts behind a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// UID of the slice.
    pub uid: String,
    /// Namespace of slice and service.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
    /// UIDs of the pods.
    pub pods: Vec<String>,
}

/// Kubernetes tells times in whole seconds.
const SECOND: Millis = 1_000;
/// What is closed stays in memory for so long, because news of who had the address next may come late.
const REMEMBERED: Millis = 3_600_000;
/// A pod's end can be that much older than the news of it: what vanished unseen counts as gone that long before the watch was cut.
const NEWS_DELAY: Millis = 5_000;
/// How long a service waits for news of pods that its slices name, before its workloads are told without them.
const BACKENDS_PATIENCE: Millis = 10_000;
/// Most objects that are followed: far beyond what Kubernetes is made for (150,000 pods).
pub const MAX_OBJECTS: usize = 400_000;

/// One interval, with what is known of its ends apart from its neighbours.
#[derive(Clone, Debug)]
struct Entry {
    interval: Interval,
    /// What the evidence says by itself.
    from: Millis,
    to: Option<Millis>,
    /// It began while nobody watched: somebody unheard of may have had the address in the same second.
    unsure: bool,
    /// Somebody unheard of may have had the address in the second in which it ended.
    doubtful: bool,
    /// It went while nobody watched, some time after `to`.
    vanished: bool,
    /// What was handed out last.
    told: Option<Interval>,
}

impl Entry {
    fn is_of(&self, kind: Kind, uid: &str) -> bool {
        self.interval.kind == kind && self.interval.uid == uid
    }
}

#[derive(Clone, Debug, Default)]
struct Known {
    namespace: String,
    name: String,
    workload: Workload,
    addresses: BTreeSet<IpAddr>,
    /// Nothing of it runs any more; what it still says of addresses counts no longer.
    over: bool,
}

/// The book of all of them.
#[derive(Debug, Default)]
pub struct Intervals {
    entries: HashMap<IpAddr, Vec<Entry>>,
    objects: HashMap<(Kind, String), Known>,
    listing: HashMap<Kind, HashSet<String>>,
    listed_at: HashMap<Kind, Millis>,
    /// Until when everything that happened is stored.
    complete_to: HashMap<Kind, Millis>,
    slices: HashMap<String, Slice>,
    /// Slices that a list has not named yet.
    unlisted_slices: Option<HashSet<String>>,
    services: HashMap<(String, String), String>,
    /// Services whose workloads have to be looked at, and since when.
    unsettled: BTreeMap<(String, String), Millis>,
    dirty: BTreeSet<IpAddr>,
    dropped: u64,
}

impl Intervals {
    /// Takes over what is stored: open intervals and those closed lately, and until when all that happened is in there.
    pub fn restore(&mut self, stored: Vec<Interval>, complete_to: HashMap<Kind, Millis>) {
        self.complete_to = complete_to;
        for interval in stored {
            let known = self.objects.entry((interval.kind, interval.uid.clone())).or_default();
            if interval.to.is_none() {
                known.namespace.clone_from(&interval.namespace);
                known.name.clone_from(&interval.name);
                known.workload = interval.workload.clone();
                known.addresses.insert(interval.address);
            }
            let entry = Entry {
                from: interval.from,
                to: interval.to,
                unsure: false,
                doubtful: false,
                vanished: false,
                told: Some(interval.clone()),
                interval,
            };
            self.entries.entry(entry.interval.address).or_default().push(entry);
        }
        self.objects.retain(|_, known| !known.addresses.is_empty());
    }

    /// A list of a kind begins: what it does not name is gone.
    pub fn handle_list_begin(&mut self, kind: Kind) {
        self.listing.insert(kind, HashSet::new());
    }

    /// Until when nothing of a kind was missed: what is found gone in the next list went after that.
    pub fn set_complete(&mut self, kind: Kind, to: Millis) {
        self.complete_to.insert(kind, to);
    }

    /// The list is complete.
    pub fn handle_list_end(&mut self, kind: Kind, now: Millis) {
        let Some(listed) = self.listing.remove(&kind) else { return };
        self.listed_at.insert(kind, now);
        let missed_from = self.complete_to.get(&kind).map_or(Millis::MIN, |to| to - NEWS_DELAY);
        self.doubt_ends(kind, missed_from);
        let vanished: Vec<String> =
            self.objects.keys().filter(|(of, uid)| *of == kind && !listed.contains(uid)).map(|(_, uid)| uid.clone()).collect();
        for uid in vanished {
            // Somebody else may have had the address in between without leaving a trace.
            self.close(kind, &uid, missed_from, true);
            self.objects.remove(&(kind, uid));
        }
    }

    /// Of the second in which something ended, just before the watch was cut, somebody may have had the rest and gone unheard of.
    fn doubt_ends(&mut self, kind: Kind, missed_from: Millis) {
        for (address, entries) in &mut self.entries {
            for entry in entries.iter_mut().filter(|entry| entry.interval.kind == kind) {
                if !entry.doubtful && entry.to.is_some_and(|to| to > missed_from) {
                    entry.doubtful = true;
                    self.dirty.insert(*address);
                }
            }
        }
    }

    /// An object as it is now, or as it was last (`gone`).
    pub fn handle_object(&mut self, seen: &Observation, gone: bool, now: Millis) {
        let key = (seen.kind, seen.uid.clone());
        if !gone && let Some(listed) = self.listing.get_mut(&seen.kind) {
            listed.insert(seen.uid.clone());
        }
        if !self.objects.contains_key(&key) {
            if self.objects.len() >= MAX_OBJECTS {
                self.dropped += 1;
                return;
            }
            let known =
                Known { namespace: seen.namespace.clone(), name: seen.name.clone(), workload: seen.workload.clone(), ..Known::default() };
            self.objects.insert(key.clone(), known);
        }
        if seen.kind == Kind::Service {
            let service = (seen.namespace.clone(), seen.name.clone());
            if !gone && self.services.insert(service.clone(), seen.uid.clone()).as_ref() != Some(&seen.uid) {
                self.unsettled.entry(service).or_insert(now);
            }
        }
        if self.objects.get(&key).is_some_and(|known| !known.over) {
            self.move_addresses(seen, now);
        }
        let ended = match seen.ended {
            // An end that was told without a time, or by a pod that was removed by force, is when it was heard of.
            Some(at) => Some(at.unwrap_or(now)),
            None => gone.then_some(now),
        };
        if let Some(at) = ended {
            self.close(seen.kind, &seen.uid, at, false);
        }
        if gone {
            self.objects.remove(&key);
        }
    }

    /// Opens what the object has, closes what it lost.
    fn move_addresses(&mut self, seen: &Observation, now: Millis) {
        let Some(known) = self.objects.get_mut(&(seen.kind, seen.uid.clone())) else { return };
        let addresses: BTreeSet<IpAddr> = seen.addresses.iter().copied().collect();
        let lost: Vec<IpAddr> = known.addresses.difference(&addresses).copied().collect();
        let new: Vec<IpAddr> = addresses.difference(&known.addresses).copied().collect();
        // Nothing is sent or answered before something of the pod has begun.
        let Some(began) = seen.began else { return };
        let moved = !lost.is_empty();
        let changed_at = seen.given.unwrap_or(now).min(now);
        if !lost.is_empty() && !addresses.is_empty() {
            known.addresses.retain(|address| addresses.contains(address));
            for address in lost {
                self.end_entry(address, seen.kind, &seen.uid, changed_at, false);
            }
        }
        for address in new {
            self.begin_entry(address, seen, if moved { changed_at } else { began });
        }
    }

    fn begin_entry(&mut self, address: IpAddr, seen: &Observation, from: Millis) {
        let entries = self.entries.entry(address).or_default();
        let before = entries.iter().filter(|entry| entry.is_of(seen.kind, &seen.uid));
        let last = before.max_by_key(|entry| entry.interval.ordinal);
        if let Some(ended) = seen.ended {
            // Over when it is first heard of: kept if it says when, and if that was not while we listened, for then it is stored.
            let stored = self.complete_to.get(&seen.kind).map_or(Millis::MIN, |to| to - NEWS_DELAY);
            if last.is_some() || ended.is_none_or(|at| at < stored) {
                return;
            }
        }
        let ordinal = last.map_or(0, |last| last.interval.ordinal.saturating_add(1));
        let from = last.and_then(|last| last.to).map_or(from, |to| from.max(to));
        if let Some(known) = self.objects.get_mut(&(seen.kind, seen.uid.clone())) {
            known.addresses.insert(address);
        }
        let unsure = self.listing.contains_key(&seen.kind) || self.listed_at.get(&seen.kind).is_some_and(|at| from < *at);
        let interval = Interval {
            address,
            kind: seen.kind,
            uid: seen.uid.clone(),
            ordinal,
            namespace: seen.namespace.clone(),
            name: seen.name.clone(),
            workload: seen.workload.clone(),
            node: seen.node.clone(),
            backends: Vec::new(),
            from,
            to: None,
        };
        entries.push(Entry { interval, from, to: None, unsure, doubtful: false, vanished: false, told: None });
        self.dirty.insert(address);
    }

    fn end_entry(&mut self, address: IpAddr, kind: Kind, uid: &str, at: Millis, vanished: bool) {
        for entry in self.entries.entry(address).or_default() {
            if entry.is_of(kind, uid) && entry.to.is_none() {
                entry.to = Some(at.max(entry.from));
                entry.vanished = vanished;
                self.dirty.insert(address);
            }
        }
    }

    fn close(&mut self, kind: Kind, uid: &str, at: Millis, vanished: bool) {
        let Some(known) = self.objects.remove(&(kind, uid.to_owned())) else { return };
        for address in &known.addresses {
            self.end_entry(*address, kind, uid, at, vanished);
        }
        if kind == Kind::Service {
            let service = (known.namespace.clone(), known.name.clone());
            if self.services.get(&service).is_some_and(|of| of == uid) {
                self.services.remove(&service);
            }
        }
        // It stays known while it is there, without its addresses: its workload is asked for.
        self.objects.insert((kind, uid.to_owned()), Known { addresses: BTreeSet::new(), over: true, ..known });
    }

    /// A list of slices begins.
    pub fn handle_slices_begin(&mut self) {
        self.unlisted_slices = Some(self.slices.keys().cloned().collect());
    }

    /// The list of slices is complete.
    pub fn handle_slices_end(&mut self, now: Millis) {
        for uid in self.unlisted_slices.take().unwrap_or_default() {
            let Some(slice) = self.slices.get(&uid).cloned() else { continue };
            self.handle_slice(slice, true, now);
        }
    }

    /// A slice as it is now, or was last.
    pub fn handle_slice(&mut self, slice: Slice, gone: bool, now: Millis) {
        if let Some(unlisted) = &mut self.unlisted_slices {
            unlisted.remove(&slice.uid);
        }
        self.unsettled.entry((slice.namespace.clone(), slice.service.clone())).or_insert(now);
        if gone {
            self.slices.remove(&slice.uid);
        } else if self.slices.len() < MAX_OBJECTS || self.slices.contains_key(&slice.uid) {
            self.slices.insert(slice.uid.clone(), slice);
        } else {
            self.dropped += 1;
        }
    }

    /// Tells services' workloads from slices and pods, which come in no order; forgets what is long over. Call it every second or so.
    pub fn settle(&mut self, now: Millis) {
        let waiting: Vec<_> = self.unsettled.iter().map(|(service, since)| (service.clone(), *since)).collect();
        for (service, since) in waiting {
            let patient = now - since < BACKENDS_PATIENCE;
            if let Some(backends) = self.backends(&service, patient) {
                self.unsettled.remove(&service);
                self.set_backends(&service, backends, now);
            }
        }
        self.entries.retain(|_, entries| {
            entries.retain(|entry| entry.to.is_none_or(|to| to > now - REMEMBERED) || entry.told.is_none());
            !entries.is_empty()
        });
    }

    /// `None` while a pod that is named has not been heard of.
    fn backends(&self, service: &(String, String), patient: bool) -> Option<Vec<Workload>> {
        let mut workloads = BTreeSet::new();
        let of_service = |slice: &&Slice| slice.namespace == service.0 && slice.service == service.1;
        for pod in self.slices.values().filter(of_service).flat_map(|slice| &slice.pods) {
            match self.objects.get(&(Kind::Pod, pod.clone())) {
                Some(known) => {
                    workloads.insert(known.workload.clone());
                }
                None if patient => return None,
                None => {}
            }
        }
        Some(workloads.into_iter().collect())
    }

    fn set_backends(&mut self, service: &(String, String), backends: Vec<Workload>, now: Millis) {
        let Some(uid) = self.services.get(service).cloned() else { return };
        let Some(known) = self.objects.get(&(Kind::Service, uid.clone())) else { return };
        for address in known.addresses.clone() {
            let entries = self.entries.entry(address).or_default();
            let Some(entry) = entries.iter_mut().find(|entry| entry.is_of(Kind::Service, &uid) && entry.to.is_none()) else { continue };
            // A service without pods for a moment is the same service.
            if backends.is_empty() || entry.interval.backends == backends {
                continue;
            }
            self.dirty.insert(address);
            if entry.interval.backends.is_empty() {
                entry.interval.backends.clone_from(&backends);
                continue;
            }
            let at = now.max(entry.from);
            entry.to = Some(at);
            let ordinal = entry.interval.ordinal.saturating_add(1);
            let interval = Interval { ordinal, backends: backends.clone(), from: at, to: None, ..entry.interval.clone() };
            entries.push(Entry { interval, from: at, to: None, unsure: false, doubtful: false, vanished: false, told: None });
        }
    }

    /// Intervals that are new or other than they were told before.
    pub fn take_changes(&mut self) -> Vec<Interval> {
        let mut changes = Vec::new();
        for address in std::mem::take(&mut self.dirty) {
            let Some(entries) = self.entries.get_mut(&address) else { continue };
            resolve(entries);
            for entry in entries.iter_mut().filter(|entry| entry.told.as_ref() != Some(&entry.interval)) {
                entry.told = Some(entry.interval.clone());
                changes.push(entry.interval.clone());
            }
        }
        changes
    }

    /// The workload of a pod that is or was lately there.
    pub fn workload(&self, pod_uid: &str) -> Option<&Workload> {
        self.objects.get(&(Kind::Pod, pod_uid.to_owned())).map(|known| &known.workload)
    }

    /// How many objects are followed.
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// How many objects and slices were left out because of [`MAX_OBJECTS`], since this was asked last.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

/// Who begins later has the address from then on; the second in which it changed hands, as far as one can tell, is nobody's.
fn resolve(entries: &mut [Entry]) {
    entries.sort_by_key(|entry| (entry.from, entry.to.unwrap_or(Millis::MAX), entry.interval.ordinal));
    for at in 0..entries.len() {
        let (from, to) = (entries[at].from, entries[at].to);
        let mut begins = if entries[at].unsure { from + SECOND } else { from };
        if let Some(before) = at.checked_sub(1).map(|before| &entries[before]) {
            let same = before.interval.kind == entries[at].interval.kind && before.interval.uid == entries[at].interval.uid;
            if !same && (before.vanished || before.to.is_none_or(|to| to > from)) {
                begins = from + SECOND;
            }
        }
        let next = entries.get(at + 1).map(|next| next.from);
        let to = to.map(|to| if entries[at].doubtful { to - SECOND } else { to });
        let ends = match (to, next) {
            (Some(to), Some(next)) => Some(to.min(next)),
            (to, next) => to.or(next),
        };
        let entry = &mut entries[at];
        entry.interval.from = begins;
        entry.interval.to = ends.map(|ends| ends.max(begins));
    }
}

#[cfg(test)]
mod tests;
