//! A table of sockets whose names grow stale: each slot counts how often it was used, and a name fits only the use that
//! it was given for.
//!
//! The count lies beside the value, so that checking a name costs no cache line of its own. The slot that was vacated last is
//! used first, while it is still in the cache. A large value need not be moved there and away: it may stay in the vacant slot, for the
//! next user to begin anew with.

/// Slots of `T`, named by index and generation.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    /// The first of the list of vacant slots.
    vacant: u32,
    len: usize,
    /// How many vacant slots hold a value.
    left: usize,
}

struct Slot<T> {
    /// How often the slot was vacated.
    generation: u32,
    /// The next vacant slot, or [`LIVE`].
    next: u32,
    /// In a vacant slot, what the last user left.
    value: Option<T>,
}

/// The end of the list of vacant slots.
const NONE: u32 = u32::MAX;
/// The slot is in use.
const LIVE: u32 = u32::MAX - 1;

impl<T> Slot<T> {
    #[inline(always)]
    fn live(&self) -> Option<&T> {
        if self.next == LIVE { self.value.as_ref() } else { None }
    }

    #[inline(always)]
    fn live_mut(&mut self) -> Option<&mut T> {
        if self.next == LIVE { self.value.as_mut() } else { None }
    }
}

impl<T: core::fmt::Debug> core::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { generation, next, .. } = self;
        let mut slot = f.debug_struct("Slot");
        slot.field("generation", generation).field("next", next).field("value", &self.live()).finish()
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), vacant: NONE, len: 0, left: 0 }
    }
}

impl<T> Slots<T> {
    /// Puts what `make` builds from the index and generation of its slot into the table, and answers that index.
    #[inline]
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(u32, u32) -> T) -> u32 {
        self.reuse(|index, generation, value| *value = Some(make(index, generation)))
    }

    /// As [`Slots::insert_with`], but `renew` finds what [`Slots::vacate`] has left in the slot, and leaves its value there.
    #[inline]
    pub(crate) fn reuse(&mut self, renew: impl FnOnce(u32, u32, &mut Option<T>)) -> u32 {
        if self.vacant == NONE {
            self.vacant = self.slots.len() as u32;
            self.slots.push(Slot { generation: 0, next: NONE, value: None });
        }
        let index = self.vacant;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            self.left -= usize::from(slot.value.is_some());
            renew(index, slot.generation, &mut slot.value);
            self.vacant = core::mem::replace(&mut slot.next, LIVE);
            self.len += 1;
        }
        index
    }

    /// Puts `value` into the table, and answers its index.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.insert_with(|_, _| value)
    }

    /// Takes a value out; its name is stale from then on.
    pub(crate) fn remove(&mut self, index: u32, generation: u32) -> Option<T> {
        if self.generation(index) == generation { self.remove_at(index) } else { None }
    }

    /// As [`Slots::remove`], whichever use the slot is in.
    pub(crate) fn remove_at(&mut self, index: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize).filter(|slot| slot.next == LIVE)?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next = core::mem::replace(&mut self.vacant, index);
        self.len -= 1;
        slot.value.take()
    }

    /// As [`Slots::remove_at`], but leaves the value where it is if `tidy` finds it fit for the next user of the slot, and drops it
    /// there if not.
    pub(crate) fn vacate(&mut self, index: u32, tidy: impl FnOnce(&mut T) -> bool) {
        let Some(slot) = self.slots.get_mut(index as usize).filter(|slot| slot.next == LIVE) else { return };
        if slot.value.as_mut().is_some_and(tidy) {
            self.left += 1;
        } else {
            slot.value = None;
        }
        slot.generation = slot.generation.wrapping_add(1);
        slot.next = core::mem::replace(&mut self.vacant, index);
        self.len -= 1;
    }

    /// How many values lie in vacant slots.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// The value under a name.
    #[inline]
    pub(crate) fn get(&self, index: u32, generation: u32) -> Option<&T> {
        self.slots.get(index as usize).filter(|slot| slot.generation == generation)?.live()
    }

    /// The value under a name, to be changed.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)?.live_mut()
    }

    /// The value in a slot, whichever use it is; for indices that the owner keeps fresh itself.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.live()
    }

    /// As [`Slots::at`], to be changed.
    #[inline]
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.live_mut()
    }

    /// As [`Slots::at_mut`], with the generation that the value has the slot for.
    #[inline]
    pub(crate) fn named_mut(&mut self, index: u32) -> Option<(&mut T, u32)> {
        let slot = self.slots.get_mut(index as usize)?;
        let generation = slot.generation;
        Some((slot.live_mut()?, generation))
    }

    /// The generation of a slot.
    #[inline]
    pub(crate) fn generation(&self, index: u32) -> u32 {
        self.slots.get(index as usize).map_or(0, |slot| slot.generation)
    }

    /// Every value with its index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| Some((index, slot.live()?)))
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_stale_name_never_reaches_the_next_user_of_the_slot() {
        let mut slots = Slots::default();
        assert_eq!(slots.insert_with(|i, g| (i, g)), 0);
        assert_eq!(slots.remove(0, 0), Some((0, 0)));
        assert_eq!(slots.insert_with(|i, g| (i, g)), 0);
        assert_eq!((slots.get(0, 0), slots.get(0, 1)), (None, Some(&(0, 1))));
        assert_eq!(slots.remove(0, 0), None);
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn a_stale_name_does_not_reach_a_newer_entry() {
        let mut slots = Slots::default();
        let slot = slots.insert('a');
        let generation = slots.generation(slot);
        assert_eq!(slots.get_mut(slot, generation), Some(&mut 'a'));
        assert_eq!(slots.remove_at(slot), Some('a'));
        assert_eq!(slots.insert('b'), slot);
        assert_eq!(slots.get_mut(slot, generation), None);
        assert_eq!(slots.at(slot), Some(&'b'));
    }

    #[test]
    fn what_is_left_in_a_slot_is_nobodys_until_the_next_user_finds_it() {
        let mut slots = Slots::default();
        assert_eq!((slots.insert('a'), slots.insert('b')), (0, 1));
        slots.vacate(0, |_| true);
        slots.vacate(1, |_| false);
        slots.vacate(1, |_| true);
        assert_eq!((slots.len(), slots.left()), (0, 1));
        assert_eq!((slots.at(0), slots.get(0, 1), slots.iter().count()), (None, None, 0));
        assert_eq!(slots.remove_at(0), None);
        let mut found = [None; 2];
        for found in &mut found {
            slots.reuse(|_, _, value| *found = value.replace('c'));
        }
        assert_eq!(found, [None, Some('a')]);
        assert_eq!((slots.len(), slots.left(), slots.get(0, 1)), (2, 0, Some(&'c')));
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_map_of_names(ops in prop::collection::vec((0..6u8, 0..8usize), 1..200)) {
            let mut slots = Slots::default();
            let mut model: BTreeMap<(u32, u32), usize> = BTreeMap::new();
            for (step, (op, pick)) in ops.into_iter().enumerate() {
                let name = model.keys().nth(pick).copied();
                match (op, name) {
                    (0, Some((index, generation))) => {
                        prop_assert_eq!(slots.remove(index, generation), model.remove(&(index, generation)));
                        prop_assert_eq!(slots.remove(index, generation), None);
                    }
                    (1 | 2, Some((index, generation))) => {
                        slots.vacate(index, |_| op == 1);
                        model.remove(&(index, generation));
                        prop_assert_eq!(slots.named_mut(index), None);
                    }
                    (3, Some((index, generation))) => {
                        prop_assert_eq!(slots.remove_at(index), model.remove(&(index, generation)));
                        prop_assert_eq!(slots.named_mut(index), None);
                    }
                    _ => {
                        let index = slots.insert(step);
                        prop_assert_eq!(model.insert((index, slots.generation(index)), step), None);
                    }
                }
                prop_assert_eq!(slots.len(), model.len());
                for (&(index, generation), value) in &model {
                    prop_assert_eq!(slots.get(index, generation), Some(value));
                    prop_assert_eq!(slots.get(index, generation.wrapping_sub(1)), None);
                }
                let mut all: Vec<_> = slots.iter().map(|(index, &value)| (index, value)).collect();
                all.sort_unstable();
                prop_assert_eq!(all, model.iter().map(|(name, &value)| (name.0, value)).collect::<Vec<_>>());
            }
        }
    }
}
