//! What is left of root's powers (capabilities(7)).

use rustix::io;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

/// Files of an image may belong to anybody and forbid everybody else to write.
const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE;

/// Gives up every capability but one, for this process and, if it can execute anything, for that.
///
/// Then the bounding set is emptied, which only execve(2) asks. What is kept is inheritable, so that a program that root executes has it,
/// and ambient, so that one executed by another user has it, too: in a user namespace the hook need not be root.
pub(super) fn drop(executes: bool) -> io::Result<()> {
    clear_ambient_capability_set()?;
    if executes {
        // Nothing can be made inheritable that the bounding set has not, and who empties it needs CAP_SETPCAP.
        keep(KEPT | CapabilitySet::SETPCAP)?;
        empty_bounding_set()?;
        configure_capability_in_ambient_set(KEPT, true)?;
    }
    keep(KEPT)
}

fn empty_bounding_set() -> io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            Err(_) => break, // EINVAL: above the last one that this kernel has
        }
    }
    Ok(())
}

fn keep(capabilities: CapabilitySet) -> io::Result<()> {
    let (effective, permitted) = (capabilities, capabilities);
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable: KEPT })
}
