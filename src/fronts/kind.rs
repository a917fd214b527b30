//! The protocols of registries.

/// The protocol of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Debian packages; several, each with a name.
    Apt,
    /// Python packages: the simple repository API (PEP 503, PEP 691).
    Pypi,
    /// Packages of npm.
    Npm,
    /// Rust crates: a sparse index of cargo.
    Crates,
    /// Container images: the OCI distribution specification.
    Oci,
}

/// All kinds.
pub const KINDS: [Kind; 5] = [Kind::Apt, Kind::Pypi, Kind::Npm, Kind::Crates, Kind::Oci];

impl Kind {
    /// The word for it in options, paths and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Pypi => "pypi",
            Self::Npm => "npm",
            Self::Crates => "crates",
            Self::Oci => "oci",
        }
    }

    /// The URL of such a registry, as an example: where its clients find what they ask for.
    #[must_use]
    pub const fn example(self) -> &'static str {
        match self {
            Self::Apt => "https://deb.example/debian",
            Self::Pypi => "https://pypi.example/simple/",
            Self::Npm => "https://npm.example/",
            Self::Crates => "https://index.crates.example/",
            Self::Oci => "https://images.example",
        }
    }

    /// The kind with this word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.word() == word)
    }
}
