//! `guest-set-user-password`, `guest-ssh-get-authorized-keys`, `-add-`, `-remove-`.

use std::time::Duration;

use qga_proto::command::{
    AuthorizedKeys, Command as _, GuestSetUserPassword, GuestSshAddAuthorizedKeys,
    GuestSshGetAuthorizedKeys, GuestSshRemoveAuthorizedKeys,
};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place};
use crate::accounts::{Desk, User, keys};
use crate::helper;

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestSetUserPassword::INFO.name, place: Place::Helpers(set_password) },
    Handler { command: GuestSshGetAuthorizedKeys::INFO.name, place: Place::Accounts(get_keys) },
    Handler { command: GuestSshAddAuthorizedKeys::INFO.name, place: Place::Accounts(add_keys) },
    Handler {
        command: GuestSshRemoveAuthorizedKeys::INFO.name,
        place: Place::Accounts(remove_keys),
    },
];

/// How long `chpasswd` may take; modules of PAM may ask servers.
const PATIENCE: Duration = Duration::from_secs(60);

/// A line `name:password` is what `chpasswd` reads, so neither may have in it what ends it. A NUL
/// would end it there too.
fn set_password(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestSetUserPassword { username, password, crypted } = request.arguments()?;
    let password = password.decode()?;
    if password.iter().any(|byte| b"\n\0".contains(byte)) {
        return Err(QgaError::generic("forbidden characters in raw password"));
    }
    if username.contains(['\n', ':', '\0']) {
        return Err(QgaError::generic("forbidden characters in username"));
    }
    let line = [username.as_bytes(), b":", &password, b"\n"].concat();
    let command: &[&str] = if crypted { &["chpasswd", "-e"] } else { &["chpasswd"] };
    helper::run_with_input(command, &line, "set user password", PATIENCE)?;
    Ok(Outcome::empty())
}

fn get_keys(desk: &mut Desk, request: &Request) -> Result<Outcome, QgaError> {
    let GuestSshGetAuthorizedKeys { username } = request.arguments()?;
    let user = User::look_up(&username)?;
    let keys = desk.act_as(user, keys::list)?;
    Ok(Outcome::value(&AuthorizedKeys { keys }))
}

fn add_keys(desk: &mut Desk, request: &Request) -> Result<Outcome, QgaError> {
    let GuestSshAddAuthorizedKeys { username, keys, reset } = request.arguments()?;
    keys::check(&keys)?;
    let user = User::look_up(&username)?;
    desk.act_as(user, move |user| keys::add(user, &keys, reset.unwrap_or(false)))?;
    Ok(Outcome::empty())
}

fn remove_keys(desk: &mut Desk, request: &Request) -> Result<Outcome, QgaError> {
    let GuestSshRemoveAuthorizedKeys { username, keys } = request.arguments()?;
    keys::check(&keys)?;
    let user = User::look_up(&username)?;
    desk.act_as(user, move |user| keys::remove(user, &keys))?;
    Ok(Outcome::empty())
}
