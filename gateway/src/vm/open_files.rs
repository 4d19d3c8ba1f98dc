//! Files that are open in a guest, by the agent's numbers for them: whose each one is.
//!
//! ```text
//!   a caller opens:    begin ─▶ Opening ── enter ──▶ OpenFile ──▶ gone: closed, or its guest is another
//!   a transfer opens:  Own (its number is not known yet) ── is ──▶ Own ──▶ gone with its transfer
//! ```
//!
//! A number that is not here was given to somebody else: to a client of the agent's other channel, or
//! to a gateway before this one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qga_proto::command::Right;
use tokio_util::sync::CancellationToken;

use super::handle::VmHandle;
use crate::principal::Principal;

/// The most that callers may have open in one guest, all together: as many as `qga-agent` has.
const MOST: usize = 512;

/// The longest path that is kept, in bytes.
const MAX_PATH: usize = 256;

/// Those of one VM.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Grows when the guest's handles have gone with its agent.
    epoch: u64,
    /// Tells entries apart that a guest gives one number.
    next: u64,
    entries: BTreeMap<i64, Entry>,
    /// Who has a file being opened.
    opening: Vec<Principal>,
    /// Transfers whose file is being opened.
    own_opening: usize,
}

#[derive(Debug)]
enum Entry {
    Own { number: u64 },
    Caller(Arc<OpenFile>),
}

/// A file that a caller has open.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// The agent's number for it.
    pub(crate) handle: i64,
    /// Who opened it.
    pub(crate) owner: Principal,
    pub(crate) access: Access,
    /// Its beginning, for the record.
    pub(crate) path: Box<str>,
    gone: CancellationToken,
}

/// What a file is open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) reads: bool,
    pub(crate) writes: bool,
}

/// Whose a handle is.
#[derive(Clone, Debug)]
pub(crate) enum Whose {
    /// A transfer's of the gateway.
    Own,
    /// Not known; perhaps a transfer's that is about to begin.
    Untold,
    /// Not known.
    Nobodys,
    /// A caller's.
    Callers(Arc<OpenFile>),
}

/// As many files are open as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyOpen {
    pub(crate) limit: usize,
    /// Of all callers.
    pub(crate) everybodys: bool,
}

/// The place of a file that a caller is opening.
#[derive(Debug)]
pub(crate) struct Opening {
    vm: VmHandle,
    owner: Principal,
    epoch: u64,
}

/// A file of the gateway's own, or one that it is opening: nobody else gets at it.
#[derive(Debug)]
pub(super) struct Own {
    vm: VmHandle,
    /// Absent until it is open.
    at: Option<(i64, u64)>,
}

impl Access {
    /// By `fopen`'s mode; what is none of those is taken for all.
    pub(crate) fn of_mode(mode: Option<&str>) -> Self {
        match mode {
            None | Some("r" | "rb") => Self { reads: true, writes: false },
            Some("w" | "wb" | "a" | "ab") => Self { reads: false, writes: true },
            Some(_) => Self { reads: true, writes: true },
        }
    }

    /// The right that opening takes.
    pub(crate) fn right(self) -> Right {
        if self.writes { Right::FilesWrite } else { Right::FilesRead }
    }
}

impl OpenFiles {
    /// Room for one more of this caller's.
    pub(crate) fn begin(vm: &VmHandle, owner: &Principal) -> Result<Opening, TooManyOpen> {
        let limit = vm.settings().limits().transfers_vm;
        let mut table = vm.open_files().lock();
        let of_callers = table.callers().count() + table.opening.len();
        let of_owner = table.callers().filter(|file| file.owner == *owner).count()
            + table.opening.iter().filter(|opening| *opening == owner).count();
        if of_owner >= limit {
            return Err(TooManyOpen { limit, everybodys: false });
        }
        if of_callers >= MOST {
            return Err(TooManyOpen { limit: MOST, everybodys: true });
        }
        table.opening.push(owner.clone());
        let epoch = table.epoch;
        drop(table);
        Ok(Opening { vm: vm.clone(), owner: owner.clone(), epoch })
    }

    /// Whose this handle is.
    pub(crate) fn whose(&self, handle: i64) -> Whose {
        let table = self.lock();
        match table.entries.get(&handle) {
            Some(Entry::Own { .. }) => Whose::Own,
            Some(Entry::Caller(file)) => Whose::Callers(file.clone()),
            None if table.own_opening > 0 => Whose::Untold,
            None => Whose::Nobodys,
        }
    }

    /// It is not open any more, or its owner is to use it no more.
    pub(crate) fn forget(&self, file: &OpenFile) {
        let mut table = self.lock();
        let is_it =
            |entry: &Entry| matches!(entry, Entry::Caller(held) if std::ptr::eq(&**held, file));
        if table.entries.get(&file.handle).is_some_and(is_it) {
            table.entries.remove(&file.handle);
        }
        drop(table);
        file.end();
    }

    /// The agent that knew the handles of callers is not there any more.
    pub(in crate::vm) fn empty(&self) {
        let mut table = self.lock();
        table.epoch += 1;
        table.callers().for_each(|file| file.end());
        // A transfer's go when it has noticed.
        table.entries.retain(|_, entry| matches!(entry, Entry::Own { .. }));
    }

    /// Nothing panics under this lock, and no call is waited for.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn callers(&self) -> impl Iterator<Item = &Arc<OpenFile>> {
        self.entries.values().filter_map(|entry| match entry {
            Entry::Caller(file) => Some(file),
            Entry::Own { .. } => None,
        })
    }
}

impl OpenFile {
    /// Returns once it is closed, or its guest is another.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    fn end(&self) {
        self.gone.cancel();
    }
}

impl Opening {
    /// The guest has opened it. Nothing, if that guest is not there any more, or gives a number that a
    /// transfer has.
    pub(crate) fn enter(self, handle: i64, access: Access, path: &str) -> Option<Arc<OpenFile>> {
        let end = path.floor_char_boundary(MAX_PATH);
        let file = Arc::new(OpenFile {
            handle,
            owner: self.owner.clone(),
            access,
            path: path[..end].into(),
            gone: CancellationToken::new(),
        });
        let mut table = self.vm.open_files().lock();
        if table.epoch != self.epoch
            || matches!(table.entries.get(&handle), Some(Entry::Own { .. }))
        {
            return None;
        }
        if let Some(Entry::Caller(before)) =
            table.entries.insert(handle, Entry::Caller(file.clone()))
        {
            before.end();
        }
        drop(table);
        Some(file)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut table = self.vm.open_files().lock();
        if let Some(at) = table.opening.iter().position(|opening| *opening == self.owner) {
            table.opening.swap_remove(at);
        }
    }
}

impl Own {
    /// A transfer opens a file.
    pub(super) fn opening(vm: &VmHandle) -> Self {
        vm.open_files().lock().own_opening += 1;
        Self { vm: vm.clone(), at: None }
    }

    /// Its number.
    pub(super) fn is(&mut self, handle: i64) {
        let mut table = self.vm.open_files().lock();
        table.next += 1;
        let number = table.next;
        if let Some(Entry::Caller(before)) = table.entries.insert(handle, Entry::Own { number }) {
            before.end();
        }
        if self.at.replace((handle, number)).is_none() {
            table.own_opening -= 1;
        }
        drop(table);
        self.vm.settings().handle_opened(&self.vm, handle);
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut table = self.vm.open_files().lock();
        let Some((handle, number)) = self.at else {
            table.own_opening -= 1;
            return;
        };
        let is_it = |entry: &Entry| matches!(entry, Entry::Own { number: held } if *held == number);
        if table.entries.get(&handle).is_some_and(is_it) {
            table.entries.remove(&handle);
            drop(table);
            self.vm.settings().handle_closed(self.vm.id(), handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::vm::Incarnation;
    use crate::vm::events::{Delivery, EventKind};
    use crate::vm::settings::Settings;

    const READ: Access = Access { reads: true, writes: false };

    fn vm() -> VmHandle {
        let text = "[[vm]]\nid = \"vm\"\nsocket = \"/nowhere\"\n";
        let config = Config::parse(text, "test.toml".as_ref()).expect("a configuration");
        let settings = Settings::new(&config);
        VmHandle::new(config.vms.into_iter().next().expect("a VM"), settings)
    }

    fn ann() -> Principal {
        Principal::new("token:ann")
    }

    #[tokio::test]
    async fn another_process_behind_the_socket_knows_none_of_them() {
        let vm = vm();
        let mut events = vm.settings().events.follow();
        let process = |pid| Some(Incarnation { pid, start_time: 1 });
        vm.shared().behind(process(1));
        let begin = || OpenFiles::begin(&vm, &ann()).expect("room");
        let file = begin().enter(1000, READ, "/f").expect("is entered");
        let (late, mut own) = (begin(), Own::opening(&vm));
        own.is(1001);
        vm.shared().behind(process(1));
        assert!(matches!(vm.open_files().whose(1000), Whose::Callers(_)), "it is the same");
        vm.shared().behind(process(2));
        let told = events.next(|event| event.kind == EventKind::VmReplaced).await;
        assert!(matches!(told, Delivery::Event(event) if event.vm.as_ref() == Some(vm.id())));
        assert!(matches!(vm.open_files().whose(1000), Whose::Nobodys));
        assert!(file.gone.is_cancelled());
        assert!(late.enter(1002, READ, "/f").is_none(), "the one before has answered");
        assert!(matches!(vm.open_files().whose(1001), Whose::Own), "its transfer will notice");
        drop(own);
        assert!(matches!(vm.open_files().whose(1001), Whose::Nobodys));
        assert!(begin().enter(1000, READ, "/f").is_some());
        vm.close();
        assert!(matches!(vm.open_files().whose(1000), Whose::Nobodys));
    }

    #[test]
    fn a_number_that_a_guest_gives_twice_is_never_taken_from_a_transfer() {
        let vm = vm();
        let begin = || OpenFiles::begin(&vm, &ann()).expect("room");
        let first = begin().enter(7, READ, "/f").expect("is entered");
        let second = begin().enter(7, READ, "/g").expect("is entered");
        assert!(first.gone.is_cancelled());
        vm.open_files().forget(&first);
        assert!(
            matches!(vm.open_files().whose(7), Whose::Callers(file) if file.path == second.path)
        );
        let (mut own, mut other) = (Own::opening(&vm), Own::opening(&vm));
        assert!(matches!(vm.open_files().whose(8), Whose::Untold));
        own.is(7);
        assert!(second.gone.is_cancelled());
        assert!(begin().enter(7, READ, "/f").is_none());
        other.is(7);
        drop(own);
        assert!(matches!(vm.open_files().whose(7), Whose::Own));
        drop(other);
        assert!(matches!(vm.open_files().whose(7), Whose::Nobodys));
    }

    #[test]
    fn all_callers_together_have_a_bound() {
        let vm = vm();
        let mut files = Vec::new();
        for caller in 0..MOST / 64 {
            let caller = Principal::new(format!("token:{caller}"));
            for _ in 0..64 {
                files.push(OpenFiles::begin(&vm, &caller).expect("room"));
            }
            let full = OpenFiles::begin(&vm, &caller).expect_err("its own bound");
            assert_eq!(full, TooManyOpen { limit: 64, everybodys: false });
        }
        let full = OpenFiles::begin(&vm, &ann()).expect_err("everybody's");
        assert_eq!(full, TooManyOpen { limit: MOST, everybodys: true });
        files.pop();
        assert!(OpenFiles::begin(&vm, &ann()).is_ok());
    }
}
