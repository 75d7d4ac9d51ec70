//! Which path of the image is attacked.

use std::fmt;

/// A path of the container that the hook, or the ldconfig that it runs, could touch or trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Etc,
    Conf,
    ConfDir,
    Include,
    Cache,
    /// Where ldconfig writes before it renames.
    Temporary,
    Run,
    Proc,
    Sys,
    Dev,
    Sbin,
    Ldconfig,
    Lib,
    VarCache,
    AuxCache,
    FirstDropIn,
    LastDropIn,
    Musl,
}

impl Place {
    pub(crate) const ALL: [Self; 18] = [
        Self::Etc,
        Self::Conf,
        Self::ConfDir,
        Self::Include,
        Self::Cache,
        Self::Temporary,
        Self::Run,
        Self::Proc,
        Self::Sys,
        Self::Dev,
        Self::Sbin,
        Self::Ldconfig,
        Self::Lib,
        Self::VarCache,
        Self::AuxCache,
        Self::FirstDropIn,
        Self::LastDropIn,
        Self::Musl,
    ];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Etc => "/etc",
            Self::Conf => "/etc/ld.so.conf",
            Self::ConfDir => "/etc/ld.so.conf.d",
            Self::Include => "/etc/ld.so.conf.d/evil.conf",
            Self::Cache => "/etc/ld.so.cache",
            Self::Temporary => "/etc/ld.so.cache~",
            Self::Run => "/run",
            Self::Proc => "/proc",
            Self::Sys => "/sys",
            Self::Dev => "/dev",
            Self::Sbin => "/sbin",
            Self::Ldconfig => "/sbin/ldconfig",
            Self::Lib => "/usr/lib",
            Self::VarCache => "/var/cache",
            Self::AuxCache => "/var/cache/ldconfig/aux-cache",
            Self::FirstDropIn => "/etc/ld.so.conf.d/00-nvcr-ldcache.conf",
            Self::LastDropIn => "/etc/ld.so.conf.d/zz-nvcr-ldcache.conf",
            Self::Musl => "/etc/ld-musl-x86_64.path",
        }
    }

    pub(crate) fn is_dir(self) -> bool {
        matches!(
            self,
            Self::Etc
                | Self::ConfDir
                | Self::Run
                | Self::Proc
                | Self::Sys
                | Self::Dev
                | Self::Sbin
                | Self::Lib
                | Self::VarCache
        )
    }

    /// Is it a directory that the hook covers or makes read-only, or may one day?
    pub(crate) fn is_covered(self) -> bool {
        matches!(self, Self::Run | Self::Proc | Self::Sys | Self::Dev | Self::VarCache)
    }

    /// What the hook writes, or passes on its way to it.
    pub(crate) fn is_written(self) -> bool {
        self.path().starts_with("/etc") && self != Self::Musl
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}
