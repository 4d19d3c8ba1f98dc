//! The file itself: redb, which commits with one fsync and finds its last commit after a crash.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError,
    TableDefinition, TableError,
};

use super::{Kind, Loaded};

const LEASES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("leases");
const REPLIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("replies");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Of the tables. Records have a version of their own.
const FORMAT: u64 = 1;

/// Enough for the few pages that commits touch; redb would take a GiB.
const CACHE_BYTES: usize = 1 << 20;

/// Why the gateway does not start on a state file. It never throws leases away by itself.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is no state of ours, or is broken.
    #[error(
        "{}: the state is damaged ({reason}). Its leases cannot be read, so the gateway does not \
         start: restore the file, or move it away to start without leases; VMs that they hold \
         then show as frozen without a lease (DELETE /vms/ID/fsfreeze?force=true thaws one)",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A later release wrote it.
    #[error(
        "{}: the state was written by a later release (format {found}, this one knows {FORMAT}). \
         Run that release; or, once no VM is frozen, move the file away",
        file.display()
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u64,
    },
    /// It cannot be read or written at all.
    #[error("{}: {reason}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

/// redb has an error type per operation.
type Failure = Box<dyn std::error::Error>;

type Rows = Vec<(String, Vec<u8>)>;

/// A change of one record; `None` takes it away.
pub(super) type Change<'a> = (Kind, &'a str, Option<Vec<u8>>);

pub(super) struct File {
    path: Option<PathBuf>,
    /// Absent after a failure, until it has been opened anew.
    database: Option<Database>,
}

impl File {
    pub(super) fn open(path: &Path) -> Result<(Self, Loaded), LoadError> {
        let damaged = |reason| LoadError::Damaged { file: path.into(), reason };
        let unusable = |reason| LoadError::Unusable { file: path.into(), reason };
        // redb takes an empty file for a new one, but leases may have been in it.
        let fresh = match std::fs::metadata(path) {
            Ok(found) if found.len() == 0 => return Err(damaged("it is empty".into())),
            Ok(_) => false,
            Err(_) => true,
        };
        // redb may panic over a file that somebody has altered.
        let opened = guarded(|| {
            let database = builder(true).create(path).map_err(|error| match error {
                DatabaseError::Storage(StorageError::Io(error))
                    if error.kind() != std::io::ErrorKind::InvalidData =>
                {
                    unusable(error.to_string())
                }
                DatabaseError::DatabaseAlreadyOpen => unusable("it is in use".into()),
                error => damaged(error.to_string()),
            })?;
            match format(&database).map_err(|e| damaged(e.to_string()))? {
                Some(found) if found > FORMAT => {
                    return Err(LoadError::Newer { file: path.into(), found });
                }
                Some(_) => {}
                None => write(&database, &[]).map_err(|e| unusable(e.to_string()))?,
            }
            let loaded = load(&database).map_err(|e| damaged(e.to_string()))?;
            Ok((database, loaded))
        });
        let opened = opened.unwrap_or_else(|panic| Err(damaged(panic)));
        if fresh && opened.is_err() {
            // What was begun for want of one would pass for a damaged one. It may not be there.
            let _ = std::fs::remove_file(path);
        }
        let (database, loaded) = opened?;
        Ok((Self { path: Some(path.into()), database: Some(database) }, loaded))
    }

    pub(super) fn in_memory() -> Self {
        Self { path: None, database: None }
    }

    /// Writes all or nothing. After an error the file is opened anew by the next call.
    pub(super) fn write(&mut self, changes: &[Change<'_>]) -> Result<(), String> {
        let result = guarded(|| self.try_write(changes).map_err(|e| chain(&*e)));
        let result = result.unwrap_or_else(Err);
        if result.is_err() {
            // redb takes nothing more after a failed write. Closing it can fail likewise.
            let database = self.database.take();
            let _ = guarded(|| drop(database));
        }
        result
    }

    fn try_write(&mut self, changes: &[Change<'_>]) -> Result<(), Failure> {
        let database = match &mut self.database {
            Some(database) => database,
            none => none.insert(match &self.path {
                Some(path) => builder(false).create(path)?,
                None => builder(false).create_with_backend(InMemoryBackend::new())?,
            }),
        };
        write(database, changes)
    }
}

fn builder(check: bool) -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(check);
    builder
}

fn write(database: &Database, changes: &[Change<'_>]) -> Result<(), Failure> {
    let transaction = database.begin_write()?;
    {
        let mut leases = transaction.open_table(LEASES)?;
        let mut replies = transaction.open_table(REPLIES)?;
        for (kind, name, record) in changes {
            let table = match kind {
                Kind::Lease => &mut leases,
                Kind::Reply => &mut replies,
            };
            match record {
                Some(record) => drop(table.insert(*name, record.as_slice())?),
                None => drop(table.remove(*name)?),
            }
        }
        transaction.open_table(META)?.insert("format", FORMAT)?;
    }
    transaction.commit()?;
    Ok(())
}

fn format(database: &Database) -> Result<Option<u64>, Failure> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(meta) => Ok(meta.get("format")?.map(|format| format.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn load(database: &Database) -> Result<Loaded, Failure> {
    let transaction = database.begin_read()?;
    let rows = |table: TableDefinition<'_, &str, &[u8]>| -> Result<Rows, Failure> {
        let table = transaction.open_table(table)?;
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (name, record) = row?;
            rows.push((name.value().to_owned(), record.value().to_owned()));
        }
        Ok(rows)
    };
    Ok(Loaded { leases: rows(LEASES)?, replies: rows(REPLIES)? })
}

/// The result, or what a panic said.
pub(super) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    // What a panic leaves half done is dropped by the caller.
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("a panic").to_owned()
    })
}

/// An error with its causes, those left out whose text is there already.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
