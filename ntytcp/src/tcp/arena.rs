//! A slab whose slots remember how often they were used, so that a stale name does not reach a newer entry.

use slab::Slab;

/// Entries by slot, with a generation per slot.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    entries: Slab<T>,
    generations: Vec<u32>,
}

impl<T> Arena<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Slab::new(), generations: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Stores `entry` and returns its slot.
    pub(crate) fn insert(&mut self, entry: T) -> u32 {
        let slot = self.entries.insert(entry);
        if slot >= self.generations.len() {
            self.generations.resize(slot + 1, 0);
        }
        slot as u32
    }

    /// Takes the entry out; its slot's next user has another generation.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let entry = self.entries.try_remove(slot as usize)?;
        if let Some(generation) = self.generations.get_mut(slot as usize) {
            *generation = generation.wrapping_add(1);
        }
        Some(entry)
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.entries.get(slot as usize)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.entries.get_mut(slot as usize)
    }

    /// The generation of a slot.
    pub(crate) fn generation(&self, slot: u32) -> u32 {
        self.generations.get(slot as usize).copied().unwrap_or(0)
    }

    /// The entry, if the slot still has that generation.
    pub(crate) fn current(&mut self, slot: u32, generation: u32) -> Option<&mut T> {
        if self.generation(slot) == generation { self.get_mut(slot) } else { None }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().map(|(slot, entry)| (slot as u32, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_name_does_not_reach_a_newer_entry() {
        let mut arena = Arena::new();
        let slot = arena.insert('a');
        let generation = arena.generation(slot);
        assert_eq!(arena.current(slot, generation), Some(&mut 'a'));
        assert_eq!(arena.remove(slot), Some('a'));
        assert_eq!(arena.insert('b'), slot);
        assert_eq!(arena.current(slot, generation), None);
        assert_eq!(arena.get(slot), Some(&'b'));
    }
}
