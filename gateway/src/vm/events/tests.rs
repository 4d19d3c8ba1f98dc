use std::time::Duration;

use tokio::time::timeout;

use super::*;

fn hub(kept: usize, bytes: usize, subscribers: usize) -> Events {
    Events::new(&Limits {
        events_kept: kept,
        events_kept_bytes: bytes,
        event_subscribers: subscribers,
        ..Limits::default()
    })
}

fn numbered(n: u64) -> Event {
    Event::new(EventKind::Error).with("n", n)
}

fn number(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Event(event) => event.data.get().to_owned(),
        Delivery::Gap { missed, .. } => format!("gap {missed:?}"),
    }
}

async fn next(subscription: &mut Subscription) -> String {
    number(&subscription.next(|_| true).await)
}

async fn nothing(subscription: &mut Subscription) {
    assert!(timeout(Duration::from_millis(1), subscription.next(|_| true)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_gets_what_comes_and_one_that_returns_what_came_meanwhile() {
    let events = hub(100, 1 << 20, 2);
    events.publish(numbered(1));
    let mut first = events.subscribe(None).expect("room");
    nothing(&mut first).await;
    events.publish(numbered(2));
    events.publish(numbered(3));
    assert_eq!(next(&mut first).await, r#"{"n":2}"#);
    let seen = first.position();
    drop(first);
    events.publish(numbered(4));
    let mut again = events.subscribe(Some(seen)).expect("room");
    assert_eq!(next(&mut again).await, r#"{"n":3}"#);
    assert_eq!(next(&mut again).await, r#"{"n":4}"#);
    nothing(&mut again).await;
    let place = again.position();
    assert!(place > seen);
    assert_eq!(place.to_string().parse(), Ok(place));
}

#[tokio::test(start_paused = true)]
async fn waiting_subscribers_are_woken() {
    let events = hub(100, 1 << 20, 2);
    let mut subscription = events.subscribe(None).expect("room");
    let waiting = tokio::spawn(async move { next(&mut subscription).await });
    tokio::task::yield_now().await;
    events.publish(numbered(7));
    assert_eq!(waiting.await.expect("ends"), r#"{"n":7}"#);
}

#[tokio::test(start_paused = true)]
async fn what_was_overwritten_is_a_gap_with_its_size_and_then_all_that_is_left() {
    let events = hub(3, 1 << 20, 2);
    let mut slow = events.subscribe(None).expect("room");
    for n in 1..=10 {
        events.publish(numbered(n));
    }
    assert_eq!(next(&mut slow).await, "gap Some(7)");
    let place = slow.position();
    for n in 8..=10 {
        assert_eq!(next(&mut slow).await, format!("{{\"n\":{n}}}"));
    }
    nothing(&mut slow).await;
    // One that comes back there misses nothing more; one that comes back from before, nobody knows what.
    let mut again = events.subscribe(Some(place)).expect("room");
    assert_eq!(next(&mut again).await, r#"{"n":8}"#);
    drop(again);
    let before = EventId { number: 0, ..place };
    let mut again = events.subscribe(Some(before)).expect("room");
    assert_eq!(next(&mut again).await, "gap None");
    assert_eq!(next(&mut again).await, r#"{"n":8}"#);
}

/// Whoever gets some of the events must not learn from ids how many others there were, or when.
#[tokio::test(start_paused = true)]
async fn a_place_tells_nothing_of_events_that_are_not_shown() {
    let events = hub(100, 1 << 20, 2);
    let mut subscription = events.subscribe(None).expect("room");
    for n in 0..10 {
        events.publish(numbered(n));
    }
    let hidden = subscription.next(|_| false);
    assert!(timeout(Duration::from_millis(1), hidden).await.is_err());
    let last = events.0.ring().events.back().expect("it is kept").id;
    let began = Instant::now();
    while subscription.position() == last {
        assert!(began.elapsed() < Duration::from_secs(20), "the place moves with time");
    }
    events.publish(numbered(10));
    assert_eq!(next(&mut subscription).await, r#"{"n":10}"#);
    // By no more than the time that has passed.
    let elapsed = u64::try_from(events.0.begun.elapsed().as_micros()).expect("short");
    assert!(subscription.position().number <= elapsed + 11);
}

#[tokio::test(start_paused = true)]
async fn another_runs_place_is_a_gap_and_so_is_one_in_the_future() {
    let events = hub(10, 1 << 20, 10);
    events.publish(numbered(1));
    let here = events.subscribe(None).expect("room").position();
    let later = here.number + 1_000_000_000_000;
    for stranger in [
        EventId { start: here.start - 1, number: 1 },
        EventId { start: here.start, number: later },
        EventId { start: u64::MAX, number: u64::MAX },
    ] {
        let mut subscription = events.subscribe(Some(stranger)).expect("room");
        assert_eq!(next(&mut subscription).await, "gap None");
        assert_eq!(next(&mut subscription).await, r#"{"n":1}"#);
    }
}

#[tokio::test(start_paused = true)]
async fn the_ring_is_bounded_in_bytes_and_so_is_an_event() {
    let events = hub(1_000_000, 10_000, 2);
    for n in 0..1000 {
        events.publish(numbered(n));
    }
    {
        let ring = events.0.ring();
        assert!(ring.bytes <= 10_000 && ring.events.len() < 40, "{}", ring.bytes);
        assert_eq!(ring.bytes, ring.events.iter().map(|e| cost(&e.data)).sum::<usize>());
    }
    let mut subscription = events.subscribe(None).expect("room");
    events.publish(Event::new(EventKind::Error).with("text", "x".repeat(1 << 20)));
    let cut = next(&mut subscription).await;
    assert!(cut.contains("left_out_bytes") && cut.len() < 100, "{cut}");
}

#[tokio::test(start_paused = true)]
async fn subscribers_are_bounded_and_give_their_place_back() {
    let events = hub(10, 1 << 20, 2);
    let one = events.subscribe(None).expect("room");
    let _two = events.subscribe(None).expect("room");
    assert_eq!(events.subscribe(None).expect_err("full"), TooManySubscribers { limit: 2 });
    drop(one);
    events.subscribe(None).expect("room again");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_wanted_is_passed_over_and_counts_as_seen() {
    let events = hub(1000, 1 << 20, 2);
    let mut subscription = events.subscribe(None).expect("room");
    for n in 0..500 {
        events.publish(numbered(n));
    }
    events.publish(Event::new(EventKind::VmAdded).vm(&"a".parse().expect("an id")));
    let found = subscription.next(|event| event.kind == EventKind::VmAdded).await;
    let Delivery::Event(found) = found else { panic!("{found:?}") };
    assert_eq!(found.vm.as_ref().map(VmId::as_str), Some("a"));
    assert!(subscription.position() >= found.id);
}

#[test]
fn ids_grow_and_only_ids_are_ids() {
    let id = |start, number| EventId { start, number };
    assert!(id(1, 9) < id(2, 1) && id(2, 1) < id(2, 2));
    assert!(id(1, 0xffff).to_string() < id(1, 0x10000).to_string());
    for bad in ["", "-", "1", "1-", "-1", "+1-1", "1-+1", "g-1", "1-2-3", " 1-2"] {
        assert_eq!(bad.parse::<EventId>(), Err(InvalidEventId), "{bad:?}");
    }
}

#[test]
fn kinds_are_read_as_they_are_written() {
    for kind in EventKind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(*kind));
    }
    assert!("freeze".parse::<EventKind>().is_err());
}
