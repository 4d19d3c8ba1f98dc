//! `guest-fsfreeze-status`, `-freeze`, `-freeze-list`, `-thaw`; `x-guest-fsfreeze-freeze`,
//! `-renew`, `-thaw`, `-report`.

use qga_proto::command::{
    Command as _, FsfreezeStatus, GuestFsfreezeFreeze, GuestFsfreezeFreezeList,
    GuestFsfreezeStatus, GuestFsfreezeThaw, XFsfreezeFreeze, XFsfreezeRenew, XFsfreezeReport,
    XFsfreezeThaw,
};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place, View};
use crate::freeze::{By, Freezer, Lease, Order, Term};

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestFsfreezeStatus::INFO.name, place: Place::Poll(status) },
    Handler { command: GuestFsfreezeFreeze::INFO.name, place: Place::Freezer(freeze) },
    Handler { command: GuestFsfreezeFreezeList::INFO.name, place: Place::Freezer(freeze_list) },
    Handler { command: GuestFsfreezeThaw::INFO.name, place: Place::Freezer(thaw) },
    Handler { command: XFsfreezeFreeze::INFO.name, place: Place::Freezer(x_freeze) },
    Handler { command: XFsfreezeRenew::INFO.name, place: Place::Freezer(x_renew) },
    Handler { command: XFsfreezeThaw::INFO.name, place: Place::Freezer(x_thaw) },
    Handler { command: XFsfreezeReport::INFO.name, place: Place::Freezes(x_report) },
];

fn status(view: &View, request: &Request) -> Result<Outcome, QgaError> {
    let GuestFsfreezeStatus {} = request.arguments()?;
    let status = if view.frozen { FsfreezeStatus::Frozen } else { FsfreezeStatus::Thawed };
    Ok(Outcome::value(&status))
}

fn freeze(request: &Request) -> Result<Order, QgaError> {
    let GuestFsfreezeFreeze {} = request.arguments()?;
    Ok(Order::Freeze { names: None, lease: None })
}

fn freeze_list(request: &Request) -> Result<Order, QgaError> {
    let GuestFsfreezeFreezeList { mountpoints } = request.arguments()?;
    Ok(Order::Freeze { names: mountpoints, lease: None })
}

fn thaw(request: &Request) -> Result<Order, QgaError> {
    let GuestFsfreezeThaw {} = request.arguments()?;
    Ok(Order::Thaw(By::Client))
}

fn x_freeze(request: &Request) -> Result<Order, QgaError> {
    let XFsfreezeFreeze { lease, deadline_ms, mountpoints } = request.arguments()?;
    let term = deadline_ms.map_or(Ok(Term::Default), Term::parse)?;
    Ok(Order::Freeze { names: mountpoints, lease: Some((Lease::parse(lease)?, term)) })
}

fn x_renew(request: &Request) -> Result<Order, QgaError> {
    let XFsfreezeRenew { lease, deadline_ms } = request.arguments()?;
    Ok(Order::Renew(Lease::parse(lease)?, Term::parse(deadline_ms)?))
}

fn x_thaw(request: &Request) -> Result<Order, QgaError> {
    let XFsfreezeThaw { lease } = request.arguments()?;
    Ok(Order::Thaw(By::Lease(Lease::parse(lease)?)))
}

fn x_report(freezer: &Freezer, request: &Request) -> Result<Outcome, QgaError> {
    let XFsfreezeReport {} = request.arguments()?;
    Ok(Outcome::value(&freezer.report()))
}
