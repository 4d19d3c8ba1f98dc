//! Directories of a guest that its agent is to hold a request's paths below.

use std::sync::Arc;

/// The `beneath` of the file extensions; none, where a caller may reach everything or the gateway
/// alone looks at the path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Beneath(Option<Arc<[String]>>);

impl Beneath {
    /// Below one of these.
    pub(crate) fn these(directories: impl IntoIterator<Item = String>) -> Self {
        Self(Some(directories.into_iter().collect()))
    }

    /// Whether the guest is to hold anything. A command that cannot be told of it must not be sent
    /// then.
    pub(crate) fn is_held(&self) -> bool {
        self.0.is_some()
    }

    /// The argument.
    pub(crate) fn argument(&self) -> Option<Vec<String>> {
        self.0.as_ref().map(|directories| directories.to_vec())
    }
}
