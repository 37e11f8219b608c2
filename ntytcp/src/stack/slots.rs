//! A table of sockets whose names grow stale: each slot counts how often it was used, and a name fits only the use that
//! it was given for.

use slab::Slab;

/// Slots of `T`, named by index and generation.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Slab<T>,
    generations: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { entries: Slab::new(), generations: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Puts what `make` builds from the index and generation of its slot into the table, and answers that index.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(u32, u32) -> T) -> u32 {
        let entry = self.entries.vacant_entry();
        let index = entry.key();
        if index >= self.generations.len() {
            self.generations.resize(index + 1, 0);
        }
        let generation = self.generations.get(index).copied().unwrap_or(0);
        entry.insert(make(index as u32, generation));
        index as u32
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
        let value = self.entries.try_remove(index as usize)?;
        if let Some(generation) = self.generations.get_mut(index as usize) {
            *generation = generation.wrapping_add(1);
        }
        Some(value)
    }

    /// The value under a name.
    pub(crate) fn get(&self, index: u32, generation: u32) -> Option<&T> {
        if self.generation(index) == generation { self.at(index) } else { None }
    }

    /// The value under a name, to be changed.
    pub(crate) fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        if self.generation(index) == generation { self.at_mut(index) } else { None }
    }

    /// The value in a slot, whichever use it is; for indices that the owner keeps fresh itself.
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)
    }

    /// As [`Slots::at`], to be changed.
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)
    }

    /// As [`Slots::at_mut`], with the generation that the value has the slot for.
    #[inline]
    pub(crate) fn named_mut(&mut self, index: u32) -> Option<(&mut T, u32)> {
        let generation = self.generation(index);
        Some((self.at_mut(index)?, generation))
    }

    /// The generation of a slot.
    pub(crate) fn generation(&self, index: u32) -> u32 {
        self.generations.get(index as usize).copied().unwrap_or(0)
    }

    /// Every value with its index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().map(|(index, value)| (index as u32, value))
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
