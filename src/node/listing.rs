//! Lists that may be long, page by page: the node reads one between two other things that it does, and holds no more of it.

use crate::crdt::{Key, KeyRange, Value};
use crate::gossip::Mesh;
use crate::id::NodeId;
use crate::replica::{AttributeKey, Path};

/// The most items of a page.
pub(super) const MAX_ITEMS: usize = 5_000;
/// A page that has so many bytes of values is full.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Which part of a list is wanted.
#[derive(Debug, Clone)]
pub(super) struct Page {
    prefix: String,
    after: Option<String>,
    limit: usize,
}

/// Nothing can stand behind this, for it could not be in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`after` is what another page had as its `next`")]
pub(super) struct NoCursor;

impl Page {
    /// The items that begin with `prefix`, without those up to `after`, at most `limit` of them and never more than fit.
    pub(super) fn new(prefix: String, after: Option<String>, limit: Option<usize>) -> Result<Self, NoCursor> {
        if after.as_ref().is_some_and(|after| after.parse::<Key>().is_err()) {
            return Err(NoCursor);
        }
        Ok(Self { prefix, after, limit: limit.unwrap_or(MAX_ITEMS).clamp(1, MAX_ITEMS) })
    }

    /// The same of nodes, which are in no family.
    pub(super) fn of_nodes(&self) -> Result<NodePage, NoCursor> {
        let after = self.after.as_ref().map(|after| after.parse().map_err(|_no_node| NoCursor));
        Ok(NodePage { after: after.transpose()?, limit: self.limit })
    }
}

/// Which part of the nodes is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodePage {
    pub(super) after: Option<NodeId>,
    /// One at least.
    pub(super) limit: usize,
}

impl NodePage {
    /// All of them.
    pub(super) const fn whole() -> Self {
        Self { after: None, limit: usize::MAX }
    }
}

/// Reads a page of the keys of a family. `item` says what a key is in the list and how many bytes its values have; nothing
/// if it has no place there. Returns what the page after this one comes `after`, if there is one.
///
/// That costs what is read, wherever the page lies.
pub(super) fn read<T>(
    mesh: &Mesh,
    family: &str,
    page: &Page,
    mut item: impl FnMut(&Key) -> Option<(T, usize)>,
) -> (Vec<T>, Option<String>) {
    let whole = |rest: &str| format!("{family}/{rest}");
    let prefix = whole(&page.prefix);
    let after = page.after.as_deref().map(whole);
    let from = after.as_ref().filter(|after| **after > prefix).unwrap_or(&prefix);
    // No key begins with what no key can contain.
    let Ok(from) = from.parse() else { return (Vec::new(), None) };
    let range = KeyRange { from: Some(from), until: None };
    let (mut items, mut bytes, mut last) = (Vec::new(), 0, None);
    let keys = mesh.replica().store().range(&range).map(|row| row.key());
    for key in keys.take_while(|key| key.as_str().starts_with(&prefix)) {
        if after.as_deref() == Some(key.as_str()) {
            continue;
        }
        let Some((one, size)) = item(&key) else { continue };
        if items.len() == page.limit || bytes >= MAX_BYTES {
            return (items, last);
        }
        bytes += size;
        items.push(one);
        last = key.as_str().get(family.len() + 1..).map(str::to_owned);
    }
    (items, None)
}

/// Reads a page of the counters and their values. A counter stands where the first share of it does.
pub(super) fn counters(mesh: &Mesh, page: &Page) -> (Vec<(AttributeKey, i128)>, Option<String>) {
    let counter_of = |key: &Key| match Path::of(key) {
        Some(Path::Counter { counter, .. }) => Some(counter),
        _ => None,
    };
    read(mesh, "sum", page, |key| {
        let counter = counter_of(key).filter(|counter| counter.to_string().starts_with(&page.prefix))?;
        let beginning = format!("sum/{counter}/");
        let mut shares = mesh.replica().store().prefix(&beginning);
        let first = shares.find(|row| !row.is_removed() && counter_of(&row.key()).as_ref() == Some(&counter));
        if first?.key() != *key {
            return None;
        }
        let value = mesh.replica().counter(&counter)?;
        let size = counter.to_string().len();
        Some(((counter, value), size))
    })
}

/// Reads a page of the sets that have elements, and how many. A set stands where the first element of it does.
pub(super) fn sets(mesh: &Mesh, page: &Page) -> (Vec<(AttributeKey, usize)>, Option<String>) {
    let live = |key: &Key| match Path::of(key) {
        Some(Path::Element { set, element }) => mesh.replica().element(&set, element).map(|_| set),
        _ => None,
    };
    read(mesh, "set", page, |key| {
        let set = live(key).filter(|set| set.to_string().starts_with(&page.prefix))?;
        let beginning = format!("set/{set}/");
        let elements = mesh.replica().store().prefix(&beginning).map(|row| row.key());
        let mut elements = elements.filter(|key| live(key).as_ref() == Some(&set));
        if elements.next()? != *key {
            return None;
        }
        let (count, size) = (1 + elements.count(), set.to_string().len());
        Some(((set, count), size))
    })
}

/// Reads a page of the elements of a set, in the order of their ids. The page's prefix must be the set and a `/`.
pub(super) fn members(mesh: &Mesh, set: &AttributeKey, page: &Page) -> (Vec<Value>, Option<String>) {
    read(mesh, "set", page, |key| match Path::of(key) {
        Some(Path::Element { set: of, element }) if of == *set => {
            let element = mesh.replica().element(set, element)?;
            let size = element.as_bytes().len();
            Some((element, size))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::Config;
    use crate::id::{Actor, Generation};
    use crate::time::{Moment, Now, UnixMillis};

    const NOW: Now = Now { monotone: Moment(0), wall: UnixMillis(1_000_000) };

    fn mesh(keys: &[&str], length: usize) -> Mesh {
        let actor = Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1) };
        let mut mesh = Mesh::new(Config::default(), actor, 1, NOW);
        for key in keys {
            let value = Value::try_from(&vec![b'x'; length][..]).unwrap();
            mesh.set(NOW, &key.parse().unwrap(), value).unwrap();
        }
        mesh
    }

    fn page(prefix: &str, after: Option<&str>, limit: usize) -> Page {
        Page::new(prefix.into(), after.map(str::to_owned), Some(limit)).unwrap()
    }

    fn keys(mesh: &Mesh, page: &Page) -> (Vec<String>, Option<String>) {
        read(mesh, "attr", page, |key| {
            let Some(Path::Attribute(attribute)) = Path::of(key) else { return None };
            let found = mesh.replica().attribute(&attribute)?;
            Some((attribute.to_string(), found.value.as_bytes().len()))
        })
    }

    fn owned(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn pages_join_to_the_whole_list_without_gap_and_overlap() {
        let mut mesh = mesh(&["mesh/a", "mesh/b", "mesh/b/c", "mesh/gone", "mesh/z"], 1);
        mesh.unset(NOW, &"mesh/gone".parse().unwrap()).unwrap();
        let whole = owned(&["mesh/a", "mesh/b", "mesh/b/c", "mesh/z"]);
        for limit in 1..=5 {
            let (mut joined, mut after) = (Vec::new(), None);
            loop {
                let (items, next) = keys(&mesh, &page("", after.as_deref(), limit));
                assert!(items.len() <= limit && !items.is_empty(), "{items:?}");
                joined.extend(items);
                after = next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(joined, whole, "pages of {limit}");
        }
    }

    #[test]
    fn a_prefix_and_a_place_to_go_on_narrow_the_list_together() {
        let mesh = mesh(&["mesh/a", "mesh/b1", "mesh/b2", "mesh/c"], 1);
        assert_eq!(keys(&mesh, &page("mesh/b", None, 9)), (owned(&["mesh/b1", "mesh/b2"]), None));
        assert_eq!(keys(&mesh, &page("mesh/b", Some("mesh/b1"), 9)), (owned(&["mesh/b2"]), None));
        assert_eq!(
            keys(&mesh, &page("mesh/b", Some("mesh/a"), 1)),
            (owned(&["mesh/b1"]), Some("mesh/b1".into()))
        );
        assert_eq!(keys(&mesh, &page("mesh/b", Some("mesh/c"), 9)), (owned(&[]), None));
        // The key that a page went on from may have gone meanwhile.
        assert_eq!(keys(&mesh, &page("mesh/b", Some("mesh/b11"), 9)), (owned(&["mesh/b2"]), None));
        assert_eq!(keys(&mesh, &page("no key", None, 9)), (owned(&[]), None));
        assert_eq!(Page::new(String::new(), Some("no key".into()), None).unwrap_err(), NoCursor);
    }

    #[test]
    fn a_page_of_large_values_ends_early_and_the_next_goes_on() {
        let many: Vec<String> = (0..100).map(|number| format!("mesh/k{number:03}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mesh = mesh(&many, 64 * 1024);
        let (items, next) = keys(&mesh, &page("", None, 100));
        assert_eq!((items.len(), next.as_deref()), (64, Some("mesh/k063")));
        let (items, next) = keys(&mesh, &page("", next.as_deref(), 100));
        assert_eq!((items.len(), next), (36, None));
    }

    type Listed = (Vec<(AttributeKey, i128)>, Option<String>);

    /// Names may continue one another, so that the shares and elements of two lie among each other.
    #[test]
    fn counters_and_sets_are_listed_once_each_whatever_lies_between() {
        let mut mesh = mesh(&[], 1);
        let value = |text: &str| Value::try_from(text.as_bytes()).unwrap();
        for (key, elements) in [("mesh/a", 40), ("mesh/a/b", 3), ("mesh/b", 1), ("mesh/gone", 1)] {
            let key = key.parse().unwrap();
            for element in 0..elements {
                mesh.add(NOW, &key, value(&element.to_string())).unwrap();
            }
            for by in 1..=elements {
                mesh.increment(NOW, &key, by).unwrap();
            }
        }
        mesh.discard(NOW, &"mesh/gone".parse().unwrap(), &value("0")).unwrap();
        let joined = |list: &dyn Fn(&Page) -> Listed, limit| {
            let (mut joined, mut after) = (Vec::new(), None);
            loop {
                let (items, next) = list(&page("mesh/", after.as_deref(), limit));
                joined.extend(items.into_iter().map(|(key, number)| (key.to_string(), number)));
                after = next;
                if after.is_none() {
                    return joined;
                }
            }
        };
        let own = |pairs: &[(&str, i128)]| -> Vec<(String, i128)> {
            pairs.iter().map(|(key, number)| ((*key).to_owned(), *number)).collect()
        };
        let all_sets = |page: &Page| {
            let (found, next) = sets(&mesh, page);
            (found.into_iter().map(|(key, count)| (key, i128::try_from(count).unwrap())).collect(), next)
        };
        let all_counters = |page: &Page| counters(&mesh, page);
        let mut found = mesh.replica().sets("mesh/").into_iter();
        assert!(found.all(|(key, _)| key.to_string() != "mesh/gone"), "a set that is empty is none");
        for limit in 1..=4 {
            let mut found = joined(&all_sets, limit);
            found.sort();
            assert_eq!(found, own(&[("mesh/a", 40), ("mesh/a/b", 3), ("mesh/b", 1)]), "pages of {limit}");
            let mut found = joined(&all_counters, limit);
            found.sort();
            let expected = own(&[("mesh/a", 820), ("mesh/a/b", 6), ("mesh/b", 1), ("mesh/gone", 1)]);
            assert_eq!(found, expected, "pages of {limit}");
        }
        assert_eq!(sets(&mesh, &page("mesh/a/", None, 9)).0.len(), 1);
        assert_eq!(counters(&mesh, &page("mesh/b", None, 9)).0.len(), 1);
    }

    /// FEATURES P9. The elements of a set whose name goes on with the other's lie among its own.
    #[test]
    fn the_elements_of_a_set_come_page_by_page_each_once() {
        let mut mesh = mesh(&[], 1);
        let value = |text: &str| Value::try_from(text.as_bytes()).unwrap();
        let set: AttributeKey = "mesh/a".parse().unwrap();
        let mut whole: Vec<Value> = (0..40).map(|element| value(&format!("e{element}"))).collect();
        for element in &whole {
            mesh.add(NOW, &set, element.clone()).unwrap();
            mesh.add(NOW, &"mesh/a/b".parse().unwrap(), value("other")).unwrap();
        }
        mesh.discard(NOW, &set, &whole.remove(7)).unwrap();
        whole.sort_unstable();
        for limit in [1, 7, 39, 40] {
            let (mut joined, mut after) = (Vec::new(), None);
            loop {
                let (items, next) = members(&mesh, &set, &page("mesh/a/", after.as_deref(), limit));
                assert!(items.len() <= limit && !items.is_empty());
                joined.extend(items);
                after = next;
                if after.is_none() {
                    break;
                }
            }
            joined.sort_unstable();
            assert_eq!(joined, whole, "pages of {limit}");
        }
        assert_eq!(members(&mesh, &"mesh/c".parse().unwrap(), &page("mesh/c/", None, 9)), (Vec::new(), None));
    }

    #[test]
    fn nobody_is_given_more_than_a_page() {
        let limit = |limit| Page::new(String::new(), None, limit).unwrap().limit;
        assert_eq!((limit(None), limit(Some(usize::MAX)), limit(Some(0))), (MAX_ITEMS, MAX_ITEMS, 1));
    }
}
