//! Health checks: whether what is behind a tunnel serves.
//!
//! Each target that has a check is asked by a task of its own, for as long as it is offered. What comes of it stands in the
//! registration ([`crate::mesh::health`]), so that nobody picks a tunnel whose target is known not to serve.

mod check;
mod probe;
mod watch;

pub(super) use check::HealthCheck;
pub(super) use probe::ProbeError;
pub(super) use watch::{Monitor, Reported, Watched, first_verdict, watch};

use crate::mesh::Health;

/// What the answers of a target come to: the first one decides, then so many in a row as the check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Judge {
    rise: u32,
    fall: u32,
    health: Health,
    /// How many in a row spoke against that.
    against: u32,
}

impl Judge {
    fn new(check: &HealthCheck) -> Self {
        Self { rise: check.rise, fall: check.fall, health: Health::Starting, against: 0 }
    }

    fn note(&mut self, passed: bool) -> Health {
        let (wanted, other) = match self.health {
            Health::Starting => (1, if passed { Health::Healthy } else { Health::Failing }),
            Health::Healthy if !passed => (self.fall, Health::Failing),
            Health::Failing if passed => (self.rise, Health::Healthy),
            Health::Healthy | Health::Failing | Health::Draining => {
                self.against = 0;
                return self.health;
            }
        };
        self.against = self.against.saturating_add(1);
        if self.against >= wanted {
            (self.health, self.against) = (other, 0);
        }
        self.health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FEATURES P1.
    #[test]
    fn the_first_answer_decides_and_then_so_many_in_a_row() {
        let mut judge = Judge { rise: 2, fall: 3, health: Health::Starting, against: 0 };
        let mut course = String::new();
        for answer in "+--+---+-++".chars() {
            course.push(match judge.note(answer == '+') {
                Health::Healthy => 'h',
                Health::Failing => 'f',
                Health::Starting => 's',
                Health::Draining => 'd',
            });
        }
        assert_eq!(course, "hhhhhhffffh");
        assert_eq!(Judge { health: Health::Starting, against: 0, ..judge }.note(false), Health::Failing);
    }
}
