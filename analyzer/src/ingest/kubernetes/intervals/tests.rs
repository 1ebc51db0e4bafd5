//! Events in, rows out; and a world of pods that come and go on few addresses, watched with delays, gaps and restarts.

use std::collections::HashMap;

use super::*;

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 244, 0, last])
}

fn workload(kind: &str, name: &str) -> Workload {
    Workload { kind: kind.to_owned(), name: name.to_owned() }
}

/// A pod that has an address since a second.
fn pod(uid: &str, last: u8, began_s: i64) -> Observation {
    Observation {
        kind: Kind::Pod,
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        name: format!("pod-{uid}"),
        workload: workload("Deployment", "web"),
        node: "node1".to_owned(),
        addresses: vec![address(last)],
        began: Some(began_s * SECOND),
        given: None,
        ended: None,
    }
}

fn over(mut pod: Observation, ended_s: i64) -> Observation {
    pod.ended = Some(Some((ended_s + 1) * SECOND));
    pod
}

fn service(uid: &str, last: u8) -> Observation {
    Observation { kind: Kind::Service, name: "api".to_owned(), workload: Workload::default(), node: String::new(), ..pod(uid, last, 1) }
}

fn slice(pods: &[&str]) -> Slice {
    let pods = pods.iter().map(|pod| (*pod).to_owned()).collect();
    Slice { uid: "slice".to_owned(), namespace: "shop".to_owned(), service: "api".to_owned(), pods }
}

/// What is stored: the newest of each key.
#[derive(Clone, Default)]
struct Store(HashMap<(IpAddr, Kind, String, u16), Interval>);

impl Store {
    fn take(&mut self, intervals: &mut Intervals) {
        for change in intervals.take_changes() {
            self.0.insert((change.address, change.kind, change.uid.clone(), change.ordinal), change);
        }
    }

    fn of(&self, last: u8) -> Vec<(String, i64, Option<i64>)> {
        let mut found: Vec<_> = self.0.values().filter(|interval| interval.address == address(last)).collect();
        found.sort_by_key(|interval| interval.from);
        found.iter().map(|interval| (interval.uid.clone(), interval.from, interval.to)).collect()
    }

    fn owners(&self, last: u8, at: Millis) -> Vec<&str> {
        let holds = |interval: &&Interval| interval.address == address(last) && interval.from <= at && interval.to.is_none_or(|to| at < to);
        self.0.values().filter(holds).map(|interval| interval.uid.as_str()).collect()
    }
}

fn check(script: impl FnOnce(&mut Intervals), last: u8, expect: &[(&str, i64, Option<i64>)]) {
    let (mut intervals, mut store) = (Intervals::default(), Store::default());
    script(&mut intervals);
    store.take(&mut intervals);
    let expect: Vec<_> = expect.iter().map(|(uid, from, to)| ((*uid).to_owned(), *from, *to)).collect();
    assert_eq!(store.of(last), expect);
}

#[test]
fn a_pod_has_its_address_from_its_first_container_to_its_last() {
    check(
        |intervals| {
            intervals.handle_object(&Observation { began: None, ..pod("a", 1, 0) }, false, 9_000);
            intervals.handle_object(&pod("a", 1, 10), false, 11_500);
            intervals.handle_object(&over(pod("a", 1, 10), 20), true, 22_700);
        },
        1,
        &[("a", 10_000, Some(21_000))],
    );
}

#[test]
fn a_completed_pod_gives_its_address_back_though_it_is_still_there() {
    check(
        |intervals| {
            intervals.handle_object(&pod("job", 1, 10), false, 11_000);
            intervals.handle_object(&over(pod("job", 1, 10), 20), false, 21_500);
            intervals.handle_object(&pod("b", 1, 30), false, 31_000);
            intervals.handle_object(&over(pod("job", 1, 10), 20), false, 40_000);
            intervals.handle_object(&over(pod("job", 1, 10), 20), true, 50_000);
        },
        1,
        &[("job", 10_000, Some(21_000)), ("b", 30_000, None)],
    );
}

#[test]
fn the_second_in_which_an_address_changes_hands_is_nobodys() {
    // Whichever is heard of first.
    for swapped in [false, true] {
        check(
            |intervals| {
                intervals.handle_object(&pod("a", 1, 10), false, 11_000);
                let mut events = [(over(pod("a", 1, 10), 20), true), (pod("b", 1, 20), false)];
                if swapped {
                    events.reverse();
                }
                events.iter().for_each(|(seen, gone)| intervals.handle_object(seen, *gone, 23_000));
            },
            1,
            &[("a", 10_000, Some(20_000)), ("b", 21_000, None)],
        );
    }
    check(
        |intervals| {
            intervals.handle_object(&pod("a", 1, 10), false, 11_000);
            intervals.handle_object(&pod("b", 1, 21), false, 23_000);
            intervals.handle_object(&over(pod("a", 1, 10), 20), true, 24_000);
        },
        1,
        &[("a", 10_000, Some(21_000)), ("b", 21_000, None)],
    );
}

#[test]
fn a_pod_removed_by_force_keeps_its_address_until_somebody_else_has_it() {
    check(
        |intervals| {
            intervals.handle_object(&pod("a", 1, 10), false, 11_000);
            intervals.handle_object(&pod("a", 1, 10), true, 30_300);
            intervals.handle_object(&pod("b", 1, 25), false, 31_000);
        },
        1,
        &[("a", 10_000, Some(25_000)), ("b", 26_000, None)],
    );
}

#[test]
fn a_sandbox_made_anew_has_another_address() {
    let again = Observation { given: Some(50_000), ..pod("a", 2, 10) };
    let steps = |intervals: &mut Intervals| {
        intervals.handle_object(&pod("a", 1, 10), false, 11_000);
        intervals.handle_object(&Observation { addresses: Vec::new(), ..pod("a", 1, 10) }, false, 49_000);
        intervals.handle_object(&again, false, 51_000);
    };
    check(steps, 1, &[("a", 10_000, Some(50_000))]);
    check(steps, 2, &[("a", 50_000, None)]);
    let back = Observation { given: Some(60_000), ..pod("a", 1, 10) };
    check(
        |intervals| {
            steps(intervals);
            intervals.handle_object(&back, false, 61_000);
        },
        1,
        &[("a", 10_000, Some(50_000)), ("a", 60_000, None)],
    );
}

#[test]
fn what_vanished_unseen_ends_when_the_watch_was_last_complete() {
    let mut store = Store::default();
    let mut first = Intervals::default();
    first.handle_object(&pod("a", 1, 10), false, 11_000);
    first.handle_object(&pod("b", 2, 10), false, 11_000);
    store.take(&mut first);
    let mut second = Intervals::default();
    second.restore(store.0.values().cloned().collect(), HashMap::from([(Kind::Pod, 100_000)]));
    second.handle_list_begin(Kind::Pod);
    second.handle_object(&pod("b", 2, 10), false, 900_000);
    second.handle_object(&pod("c", 1, 800), false, 900_000);
    // Over before the watch was cut, so it is stored; over after it, so it is not.
    second.handle_object(&over(pod("old", 3, 20), 30), false, 900_000);
    second.handle_object(&over(pod("job", 3, 200), 300), false, 900_000);
    second.handle_list_end(Kind::Pod, 900_000);
    store.take(&mut second);
    assert_eq!(store.of(1), [("a".to_owned(), 10_000, Some(95_000)), ("c".to_owned(), 801_000, None)]);
    assert_eq!(store.of(2), [("b".to_owned(), 10_000, None)]);
    assert_eq!(store.of(3), [("job".to_owned(), 201_000, Some(300_000))]);
    // A list that breaks off and begins again is one list.
    second.handle_list_begin(Kind::Pod);
    second.handle_list_begin(Kind::Pod);
    for seen in [pod("b", 2, 10), pod("c", 1, 800)] {
        second.handle_object(&seen, false, 901_000);
    }
    second.handle_list_end(Kind::Pod, 900_000);
    assert_eq!(second.take_changes(), []);
}

#[test]
fn a_service_is_its_workload_while_it_has_one() {
    let (mut intervals, mut store) = (Intervals::default(), Store::default());
    intervals.handle_object(&service("svc", 9), false, 1_000);
    intervals.handle_slice(slice(&["a"]), false, 1_000);
    intervals.settle(2_000);
    store.take(&mut intervals);
    assert_eq!(store.of(9), [("svc".to_owned(), 1_000, None)]);
    let backends = |store: &Store, ordinal| store.0[&(address(9), Kind::Service, "svc".to_owned(), ordinal)].backends.clone();
    assert_eq!(backends(&store, 0), [], "the pod has not been heard of");
    intervals.handle_object(&pod("a", 1, 2), false, 3_000);
    intervals.settle(3_000);
    store.take(&mut intervals);
    assert_eq!(backends(&store, 0), [workload("Deployment", "web")]);
    // Without pods for a moment; then another workload behind it.
    intervals.handle_slice(slice(&[]), false, 50_000);
    intervals.settle(50_000);
    assert_eq!(intervals.take_changes(), []);
    let other = Observation { workload: workload("Deployment", "green"), ..pod("g", 2, 60) };
    intervals.handle_object(&other, false, 61_000);
    intervals.handle_slice(slice(&["g"]), false, 61_000);
    intervals.settle(61_000);
    store.take(&mut intervals);
    assert_eq!(store.of(9), [("svc".to_owned(), 1_000, Some(61_000)), ("svc".to_owned(), 61_000, None)]);
    assert_eq!(backends(&store, 1), [workload("Deployment", "green")]);
}

/// Random numbers from a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: i64) -> i64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as i64 % bound
    }
}

/// A pod as it really was, in milliseconds.
struct Life {
    uid: String,
    address: u8,
    began: Millis,
    ended: Millis,
    /// What is told of it, and when that is heard.
    news: Vec<(Millis, Observation, bool)>,
}

fn truncated(at: Millis) -> Millis {
    at / SECOND * SECOND
}

fn lives(random: &mut Random) -> Vec<Life> {
    let mut lives = Vec::new();
    for last in 1..=3u8 {
        let mut now = random.below(5_000);
        for number in 0..6 {
            let began = now;
            let ended = began + 300 + random.below(40_000);
            // An address is given again at once, or later.
            now = ended + if random.below(2) == 0 { 1 + random.below(200) } else { random.below(30_000) };
            let uid = format!("{last}-{number}");
            let seen = pod(&uid, last, began / SECOND);
            let completed = random.below(3) == 0;
            let mut heard = began + random.below(3_000);
            let mut news = vec![(heard, seen.clone(), false)];
            if random.below(3) == 0 {
                heard += random.below(1_000);
                news.insert(0, (heard - 1, Observation { began: None, ..seen.clone() }, false));
                news[1].0 = heard;
            }
            heard = heard.max(ended) + random.below(4_000);
            let last_seen = Observation { ended: Some(Some(truncated(ended) + SECOND)), ..seen };
            if completed {
                news.push((heard, last_seen.clone(), false));
                heard += random.below(60_000);
            }
            news.push((heard, last_seen, true));
            lives.push(Life { uid, address: last, began, ended, news });
        }
    }
    lives
}

#[test]
fn at_each_moment_an_address_is_the_right_pods_or_nobodys() {
    for seed in 1..=400u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let lives = lives(&mut random);
        let mut news: Vec<(Millis, &Observation, bool)> =
            lives.iter().flat_map(|life| life.news.iter().map(|(at, seen, gone)| (*at, seen, *gone))).collect();
        news.sort_by_key(|(at, ..)| *at);
        let end = news.last().map_or(0, |(at, ..)| *at);
        // Times during which nobody listens, after which everything is listed; some of them with another process.
        let mut gaps: Vec<(Millis, Millis, bool)> = (0..random.below(4))
            .map(|_| {
                let from = random.below(end);
                (from, from + 1 + random.below(20_000), random.below(2) == 0)
            })
            .collect();
        gaps.sort_unstable();
        gaps.dedup_by(|later, earlier| later.0 <= earlier.1);
        let (mut store, mut intervals) = (Store::default(), Intervals::default());
        let mut heard: HashMap<String, Observation> = HashMap::new();
        let mut gaps = gaps.into_iter().peekable();
        let mut missed_from = None;
        let mut unseen: Vec<(Millis, Millis)> = Vec::new();
        for (at, seen, gone) in news {
            while let Some((from, to, restart)) = gaps.peek().copied().filter(|(from, ..)| *from <= at) {
                if at < to {
                    missed_from = Some(from);
                    break;
                }
                gaps.next();
                unseen.push((from, to));
                relist(&mut intervals, &mut store, &heard, from, to, restart);
                missed_from = None;
            }
            if gone {
                heard.remove(&seen.uid);
            } else {
                heard.insert(seen.uid.clone(), seen.clone());
            }
            if missed_from.is_none() {
                intervals.handle_object(seen, gone, at);
                intervals.settle(at);
                store.take(&mut intervals);
            }
        }
        if let Some((from, to, restart)) = gaps.next().filter(|_| missed_from.is_some()) {
            unseen.push((from, to));
            relist(&mut intervals, &mut store, &heard, from, to, restart);
        }
        verify(seed, &lives, &store, &unseen, end);
    }
}

fn relist(intervals: &mut Intervals, store: &mut Store, there: &HashMap<String, Observation>, from: Millis, to: Millis, restart: bool) {
    if restart {
        *intervals = Intervals::default();
        intervals.restore(store.0.values().cloned().collect(), HashMap::from([(Kind::Pod, from)]));
    }
    intervals.set_complete(Kind::Pod, from);
    intervals.handle_list_begin(Kind::Pod);
    there.values().for_each(|seen| intervals.handle_object(seen, false, to));
    intervals.handle_list_end(Kind::Pod, to);
    store.take(intervals);
}

fn verify(seed: u64, lives: &[Life], store: &Store, unseen: &[(Millis, Millis)], end: Millis) {
    for last in 1..=3u8 {
        let mut at = 0;
        while at < end {
            let owners = store.owners(last, at);
            assert!(owners.len() <= 1, "seed {seed}: {owners:?} have address {last} at {at}");
            let truth = lives.iter().find(|life| life.address == last && life.began <= at && at < life.ended);
            match (owners.first(), truth) {
                (Some(owner), Some(truth)) => assert_eq!(*owner, truth.uid, "seed {seed}: address {last} at {at}"),
                (None, Some(truth)) => {
                    // Each list after a gap doubts the last second of those who ended shortly before it; what is stored does not say whose
                    // was doubted already.
                    let end_heard = truth.news.iter().find(|(_, seen, _)| seen.ended.is_some()).map_or(Millis::MAX, |(heard, ..)| *heard);
                    let doubts = unseen.iter().filter(|(from, to)| *to >= end_heard && from - NEWS_DELAY < truth.ended + SECOND).count();
                    let ends = truncated(truth.ended) - doubts as Millis * SECOND;
                    let changing = at < truncated(truth.began) + 2 * SECOND || at >= ends;
                    // Gone, or never heard of, when somebody listened again.
                    let last_heard = truth.news.last().map_or(0, |(heard, ..)| *heard);
                    let missed = unseen.iter().any(|(from, to)| last_heard >= *from && last_heard <= *to && at >= from - NEWS_DELAY)
                        || unseen.iter().any(|(from, to)| truth.news[0].0 >= *from && last_heard <= *to);
                    assert!(changing || missed, "seed {seed}: nobody has address {last} at {at}, {} has", truth.uid);
                }
                (_, None) => {}
            }
            at += 50;
        }
    }
}
