//! Arithmetic expansions: not worked out, only told apart from what ends the shell, and searched for assignments.

use super::words::{Quote, Reader, Word};

impl Reader<'_> {
    /// `$((…))`, which ends the shell if it is malformed. If it assigns anything, every name in it counts as set:
    /// telling which one takes the whole grammar.
    pub fn arithmetic(&mut self) {
        self.at += 3;
        let (mut names, mut assigns) = (Vec::new(), false);
        let (mut parentheses, mut wants_operand) = (0usize, true);
        let mut inner = Word::default();
        while self.unit.broken.is_none() {
            let Some(byte) = self.peek(0) else { break };
            match byte {
                b' ' | b'\t' | b'\n' => {
                    self.step();
                }
                b'$' | b'`' if wants_operand => {
                    self.expansion(Quote::Double, &mut inner);
                    wants_operand = false;
                }
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' if wants_operand => {
                    let name = self.name();
                    match name.is_empty() {
                        true => self.at += self.script[self.at..].iter().take_while(|b| b.is_ascii_digit()).count(),
                        false => names.push(name),
                    }
                    wants_operand = false;
                }
                b'(' if wants_operand => {
                    parentheses += 1;
                    self.at += 1;
                }
                b'-' | b'+' | b'!' | b'~' if wants_operand => self.at += 1,
                b')' if wants_operand => break,
                b')' if parentheses > 0 => {
                    parentheses -= 1;
                    self.at += 1;
                }
                b')' if self.peek(1) == Some(b')') => {
                    self.at += 2;
                    if assigns {
                        self.unit.set_by_expansion.append(&mut names);
                    }
                    return;
                }
                _ if wants_operand => break,
                _ => {
                    let Some(operator) = OPERATORS.iter().find(|operator| self.looking_at(operator)) else {
                        break;
                    };
                    self.at += operator.len();
                    wants_operand = true;
                    assigns |= operator.ends_with(b"=") && ![&b"=="[..], b"!=", b"<=", b">="].contains(operator);
                }
            }
        }
        self.broken("of arithmetic that not every shell reads");
    }
}

/// Arithmetic operators between two operands, a longer one before its beginning.
const OPERATORS: &[&[u8]] = &[
    b"<<=", b">>=", b"<<", b">>", b"<=", b">=", b"==", b"!=", b"&&", b"||", b"+=", b"-=", b"*=", b"/=", b"%=", b"&=",
    b"|=", b"^=", b"+", b"-", b"*", b"/", b"%", b"&", b"|", b"^", b"<", b">", b"=",
];
