//! A handle in a guest that is closed, whatever happens to whoever opened it.

use std::time::Duration;

use qga_proto::command::{Command, GuestFileClose, GuestFileSeek, Whence};
use tokio::time::{Instant, timeout};

use super::TransferError;
use super::patience::Patience;
use super::places::Place;
use super::slots::{Slot, Transfers};
use crate::vm::call::{CallError, CallOptions};
use crate::vm::handle::VmHandle;
use crate::vm::incarnation::Incarnation;
use crate::vm::open_files::Own;

/// For how long a handle is tried to be closed: a guest can be frozen or gone for a while.
const BOUND: Duration = Duration::from_secs(600);

/// How long until the next try, if nothing is heard of the link before.
const PAUSE: Duration = Duration::from_secs(2);

/// A file that is open in a guest. Dropped, it is closed there.
#[derive(Debug)]
pub(super) struct GuestFile {
    pub(super) vm: VmHandle,
    pub(super) handle: i64,
    /// At which its commands were begun: no other guest gets any of them.
    disruptions: u64,
    incarnation: Option<Incarnation>,
    /// Absent once there is nothing to be closed.
    slot: Option<Slot>,
    /// Keeps the handle from everybody else, until it is closed.
    own: Option<Own>,
    /// Of one that is written where it is.
    place: Option<Place>,
}

impl GuestFile {
    /// Opens by `open`, which gives the handle and what else the guest says.
    pub(super) async fn open<C: Command>(
        vm: &VmHandle,
        slot: Slot,
        open: C,
        handle: impl FnOnce(&C::Return) -> i64,
    ) -> Result<(Self, C::Return), TransferError> {
        let (disruptions, incarnation) = (vm.disruptions(), vm.incarnation());
        let options = CallOptions { unless_disrupted: Some(disruptions), ..vm.options(&C::INFO) };
        let mut own = Own::opening(vm);
        let opened = vm.call(open, options).await.map_err(TransferError::call(&C::INFO))?;
        let handle = handle(&opened);
        own.is(handle);
        let vm = vm.clone();
        // On a first connection it becomes known only by the call.
        let incarnation = incarnation.or_else(|| vm.incarnation());
        let (slot, own) = (Some(slot), Some(own));
        let file = Self { vm, handle, disruptions, incarnation, slot, own, place: None };
        Ok((file, opened))
    }

    /// One that the gateway before this one had open behind the same socket.
    pub(super) fn left_open(vm: &VmHandle, handle: i64) -> Self {
        let (disruptions, incarnation) = (vm.disruptions(), vm.incarnation());
        let mut own = Own::opening(vm);
        own.is(handle);
        let (slot, own) = (Some(Transfers::left_open(vm)), Some(own));
        Self { vm: vm.clone(), handle, disruptions, incarnation, slot, own, place: None }
    }

    /// Nobody else may write to this file in the way of `place`, until it is closed.
    pub(super) fn keep(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Timeout and bounds of a command about this file: only for the guest that opened it.
    pub(super) fn options<C: Command>(&self) -> CallOptions {
        let options = self.vm.options(&C::INFO);
        CallOptions { unless_disrupted: Some(self.disruptions), ..options }
    }

    /// One command about it; waits while the guest stands still.
    pub(super) async fn call<C: Command + Clone>(
        &self,
        arguments: C,
    ) -> Result<C::Return, TransferError> {
        let mut patience = Patience::new(&self.vm);
        loop {
            match self.vm.call(arguments.clone(), self.options::<C>()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => patience.wait(&C::INFO, error).await?,
            }
        }
    }

    /// Moves to a place.
    pub(super) async fn seek(&self, offset: u64) -> Result<(), TransferError> {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let whence = Whence::Number(0);
        self.call(GuestFileSeek { handle: self.handle, offset, whence }).await.map(drop)
    }

    /// Where the end is, if there is such a place; the position is anywhere then.
    pub(super) async fn end(&self) -> Result<Option<u64>, TransferError> {
        let whence = Whence::Number(2);
        match self.call(GuestFileSeek { handle: self.handle, offset: 0, whence }).await {
            Ok(seek) => Ok(u64::try_from(seek.position).ok()),
            Err(TransferError::Call { source: CallError::Agent(_), .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it has positions at all; it is at its beginning then.
    pub(super) async fn has_positions(&self) -> Result<bool, TransferError> {
        match self.seek(0).await {
            Ok(()) => Ok(true),
            Err(TransferError::Call { source: CallError::Agent(_), .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Closes it now, for somebody who must know that the guest has what it was given.
    pub(super) async fn close(mut self) -> Result<(), TransferError> {
        let closed = self.call(GuestFileClose { handle: self.handle }).await;
        if closed.is_ok() {
            self.forget();
        }
        closed.map(drop)
    }

    /// There is nothing to be closed any more.
    pub(super) fn forget(&mut self) {
        self.slot = None;
    }

    /// Is of no transfer for a while. False: there are too many such.
    pub(super) fn rest(&mut self) -> bool {
        self.slot.as_mut().is_none_or(Slot::close)
    }

    /// Is of a transfer again, possibly over another connection to the same guest.
    pub(super) fn resume(&mut self, slot: Slot) -> bool {
        self.slot = Some(slot);
        self.disruptions = self.vm.disruptions();
        self.is_there()
    }

    fn is_there(&self) -> bool {
        !self.vm.is_closed() && self.vm.incarnation() == self.incarnation
    }

    /// A handle outlives its connection. It is closed as long as the same QEMU is behind the
    /// socket: agents number on over their restarts, so nobody else's handle is hit.
    async fn closed(self, mut slot: Slot) {
        let until = Instant::now() + BOUND;
        loop {
            let mut link = self.vm.link_changes();
            if !self.is_there() {
                return;
            }
            let options = self.vm.options(&GuestFileClose::INFO);
            match self.vm.call(GuestFileClose { handle: self.handle }, options).await {
                Err(CallError::Agent(error)) if error.is_disabled() => {}
                Ok(_) | Err(CallError::Agent(_) | CallError::Unsupported) => return,
                Err(_) => {}
            }
            if !slot.close() || Instant::now() >= until {
                let (id, handle) = (self.vm.id(), self.handle);
                tracing::warn!(vm.id = %id, "{id}: file handle {handle} could not be closed");
                return;
            }
            let _ = timeout(PAUSE, link.changed()).await;
        }
    }
}

impl Drop for GuestFile {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let mut place = self.place.take();
        if let Some(place) = &mut place {
            place.closing();
        }
        let left = Self {
            vm: self.vm.clone(),
            handle: self.handle,
            disruptions: self.disruptions,
            incarnation: self.incarnation,
            slot: None,
            own: self.own.take(),
            place,
        };
        // Without a runtime the process is at its end.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(left.closed(slot));
        }
    }
}
