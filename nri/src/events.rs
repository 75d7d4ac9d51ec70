//! Which events a plugin asks for.

use std::fmt;
use std::ops::BitOr;

/// What a runtime can tell a plugin; the discriminant is the number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are NRI's own and say what happens")]
pub enum Event {
    RunPodSandbox = 1,
    StopPodSandbox = 2,
    RemovePodSandbox = 3,
    CreateContainer = 4,
    PostCreateContainer = 5,
    StartContainer = 6,
    PostStartContainer = 7,
    UpdateContainer = 8,
    PostUpdateContainer = 9,
    StopContainer = 10,
    RemoveContainer = 11,
    /// NRI 0.10 and newer.
    UpdatePodSandbox = 12,
    /// NRI 0.10 and newer.
    PostUpdatePodSandbox = 13,
    /// NRI 0.10 and newer; makes the plugin a validator.
    ValidateContainerAdjustment = 14,
}

impl Event {
    /// Every event, in the order of the wire numbers.
    pub const ALL: [Event; 14] = [
        Event::RunPodSandbox,
        Event::StopPodSandbox,
        Event::RemovePodSandbox,
        Event::CreateContainer,
        Event::PostCreateContainer,
        Event::StartContainer,
        Event::PostStartContainer,
        Event::UpdateContainer,
        Event::PostUpdateContainer,
        Event::StopContainer,
        Event::RemoveContainer,
        Event::UpdatePodSandbox,
        Event::PostUpdatePodSandbox,
        Event::ValidateContainerAdjustment,
    ];

    /// The event with this number on the wire, `None` for one that is newer than this crate.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.number() == number)
    }

    /// The number on the wire.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// A set of events: `Event::CreateContainer | Event::PostStartContainer`.
///
/// A runtime drops a plugin that asks for an event it does not know. The first eleven are known
/// to all; the last three only from NRI 0.10 on.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Events(i32);

impl Events {
    /// The mask on the wire: bit `number - 1` for each event.
    pub const fn bits(self) -> i32 {
        self.0
    }

    /// Reads a mask from the wire; bits of unknown events are left out.
    pub fn from_bits(bits: i32) -> Self {
        Event::ALL.into_iter().filter(|event| bits & bit(*event) != 0).collect()
    }

    /// Whether no event is in the set. On the wire that would mean *every* event, so a session
    /// refuses to send it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `event` is in the set.
    pub const fn contains(self, event: Event) -> bool {
        self.0 & bit(event) != 0
    }

    /// The events of the set in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Event> {
        Event::ALL.into_iter().filter(move |event| self.contains(*event))
    }
}

const fn bit(event: Event) -> i32 {
    1 << (event as i32 - 1)
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl From<Event> for Events {
    fn from(event: Event) -> Self {
        Self(bit(event))
    }
}

impl<E: Into<Events>> BitOr<E> for Event {
    type Output = Events;

    fn bitor(self, other: E) -> Events {
        Events::from(self) | other
    }
}

impl<E: Into<Events>> BitOr<E> for Events {
    type Output = Events;

    fn bitor(self, other: E) -> Events {
        Events(self.0 | other.into().0)
    }
}

impl FromIterator<Event> for Events {
    fn from_iter<I: IntoIterator<Item = Event>>(events: I) -> Self {
        events.into_iter().fold(Self::default(), BitOr::bitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_one_less_than_numbers() {
        assert_eq!(Events::from(Event::RunPodSandbox).bits(), 0x1);
        assert_eq!(Events::from(Event::CreateContainer).bits(), 0x8);
        assert_eq!(Events::from(Event::ValidateContainerAdjustment).bits(), 0x2000);
        assert_eq!(Event::ALL.into_iter().collect::<Events>().bits(), 0x3fff);
    }

    #[test]
    fn numbers_are_consecutive_and_read_back() {
        for (event, number) in Event::ALL.into_iter().zip(1..) {
            assert_eq!(event.number(), number);
            assert_eq!(Event::from_number(number), Some(event));
        }
        for unknown in [i32::MIN, -1, 0, 15, i32::MAX] {
            assert_eq!(Event::from_number(unknown), None);
        }
    }

    #[test]
    fn a_set_is_what_was_put_into_it() {
        let events =
            Event::CreateContainer | Event::PostCreateContainer | Event::PostStartContainer;
        assert_eq!(events.bits(), 0x58);
        assert_eq!(Events::from_bits(0x58), events);
        assert!(events.contains(Event::PostStartContainer));
        assert!(!events.contains(Event::StartContainer));
        assert!(!events.is_empty() && Events::default().is_empty());
        assert_eq!(events.iter().map(Event::number).collect::<Vec<_>>(), [4, 5, 7]);
        assert_eq!(format!("{:?}", Events::from(Event::StopContainer)), "{StopContainer}");
    }

    #[test]
    fn unknown_bits_are_left_out() {
        assert_eq!(Events::from_bits(-1).bits(), 0x3fff);
    }
}
