//! The rows of the table of first answers: by name, by age, and by whose they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::watch;

use super::Reply;
use crate::principal::Principal;

/// All rows.
#[derive(Default)]
pub(super) struct Rows {
    by_name: HashMap<Arc<str>, Row>,
    /// From the oldest on.
    by_age: BTreeMap<u64, Arc<str>>,
    by_owner: HashMap<Principal, Owned>,
    next: u64,
    bytes: usize,
}

/// One principal's.
#[derive(Default)]
struct Owned {
    by_age: BTreeMap<u64, Arc<str>>,
    bytes: usize,
}

/// A request and what became of it.
pub(super) struct Row {
    pub(super) age: u64,
    /// When it came, in seconds since 1970.
    pub(super) at: u64,
    pub(super) owner: Principal,
    pub(super) fingerprint: String,
    pub(super) reply: Option<Reply>,
    /// The disk may have it.
    pub(super) written: bool,
    /// Closed when it is out of hand.
    pub(super) in_hand: Option<watch::Receiver<()>>,
}

/// Who has to give way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Most {
    Rows,
    Bytes,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// What the bodies of all answers take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, name: &str) -> Option<&Row> {
        self.by_name.get(name)
    }

    /// Everything but its answer may be changed.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Row> {
        self.by_name.get_mut(name)
    }

    pub(super) fn enter(&mut self, name: Arc<str>, mut row: Row) {
        row.age = self.next;
        self.next += 1;
        self.bytes += row.size();
        let owned = self.by_owner.entry(row.owner.clone()).or_default();
        owned.bytes += row.size();
        owned.by_age.insert(row.age, name.clone());
        self.by_age.insert(row.age, name.clone());
        self.by_name.insert(name, row);
    }

    pub(super) fn answer(&mut self, name: &str, reply: Reply) {
        let Some(row) = self.by_name.get_mut(name) else { return };
        row.reply = Some(reply);
        let size = row.size();
        self.bytes += size;
        if let Some(owned) = self.by_owner.get_mut(&row.owner) {
            owned.bytes += size;
        }
    }

    /// Whether the disk is to forget it too.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(row) = self.by_name.remove(name) else { return false };
        self.by_age.remove(&row.age);
        self.bytes -= row.size();
        if let Some(owned) = self.by_owner.get_mut(&row.owner) {
            owned.by_age.remove(&row.age);
            owned.bytes -= row.size();
            if owned.by_age.is_empty() {
                self.by_owner.remove(&row.owner);
            }
        }
        row.written
    }

    pub(super) fn oldest_settled(&self) -> Option<(&Row, Arc<str>)> {
        self.settled(&self.by_age)
    }

    /// The oldest of who has most of all: answers give way to others' by who keeps how many, so that
    /// nobody's young ones go for what somebody else sends without end. One more `comes`, and counts
    /// where as many rows are kept.
    pub(super) fn oldest_of(&self, most: Most, comes: Option<&Principal>) -> Option<Arc<str>> {
        let settled = self.by_owner.iter().filter_map(|(owner, owned)| {
            let (_, name) = self.settled(&owned.by_age)?;
            let much = match most {
                Most::Rows => owned.by_age.len(),
                Most::Bytes => owned.bytes,
            };
            Some(((much, comes == Some(owner)), name))
        });
        settled.max_by_key(|(much, _)| *much).map(|(_, name)| name)
    }

    fn settled(&self, by_age: &BTreeMap<u64, Arc<str>>) -> Option<(&Row, Arc<str>)> {
        let mut rows = by_age.values().filter_map(|name| Some((self.by_name.get(name)?, name)));
        rows.find(|(row, _)| row.in_hand.is_none()).map(|(row, name)| (row, name.clone()))
    }
}

impl Row {
    fn size(&self) -> usize {
        self.reply.as_ref().and_then(|reply| reply.body.as_ref()).map_or(0, String::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(owner: &str, body: usize) -> Row {
        let reply = Reply { status: 200, headers: Vec::new(), body: Some("x".repeat(body)) };
        let (owner, fingerprint) = (Principal::new(owner), String::new());
        Row { age: 0, at: 0, owner, fingerprint, reply: Some(reply), written: false, in_hand: None }
    }

    #[test]
    fn who_has_most_gives_way_and_nobody_else() {
        let mut rows = Rows::default();
        rows.enter("old".into(), row("few", 10));
        for n in 0..5 {
            rows.enter(format!("many {n}").into(), row("many", 1));
        }
        assert_eq!(rows.oldest_of(Most::Bytes, None).as_deref(), Some("old"));
        for n in 0..4 {
            let oldest = rows.oldest_of(Most::Rows, None).expect("there are some");
            assert_eq!(&*oldest, format!("many {n}"));
            rows.remove(&oldest);
        }
        assert_eq!((rows.len(), rows.bytes()), (2, 11));
        rows.remove("old");
        rows.remove("many 4");
        assert_eq!(rows.bytes(), 0);
        assert!(rows.by_owner.is_empty() && rows.by_age.is_empty());
    }

    #[test]
    fn of_two_that_have_as_many_the_one_that_comes_with_more_gives_way() {
        for _ in 0..20 {
            let mut rows = Rows::default();
            rows.enter("ann".into(), row("ann", 0));
            rows.enter("bob".into(), row("bob", 0));
            for name in ["ann", "bob"] {
                let comes = Principal::new(name);
                assert_eq!(rows.oldest_of(Most::Rows, Some(&comes)).as_deref(), Some(name));
            }
        }
    }

    #[test]
    fn what_is_in_hand_stays() {
        let mut rows = Rows::default();
        let (_held, in_hand) = watch::channel(());
        rows.enter("held".into(), Row { reply: None, in_hand: Some(in_hand), ..row("many", 0) });
        rows.enter("many".into(), row("many", 0));
        rows.enter("few".into(), row("few", 0));
        assert_eq!(rows.oldest_of(Most::Rows, None).as_deref(), Some("many"));
        rows.answer("held", row("", 7).reply.expect("one"));
        assert_eq!(rows.bytes(), 7);
    }
}
