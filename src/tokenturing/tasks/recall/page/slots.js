// Which event each slot of the memory holds, as far as one can tell from outside: the one that was noticed while the slot was
// last written anew. The model notices a digit one or two steps after it begins to write it down, and writes on for some steps.
// Where it writes something down without being sure enough to notice it, the likeliest digit of that step is held with a doubt.

const BEFORE = 2, AFTER = 3; // steps around an event in which what is written is about it
const LATE = 10; // steps after which a digit that was held with a doubt may be noticed
const LIKELY = 0.5; // share of a digit from which on it is held with a doubt

export class Slots {
  constructor({ held = [], event = null, age = [] } = {}) {
    this.held = held; // for each slot null (nothing that one could tell) or {sense, what, step, doubt}
    this.event = event; // the last one
    this.written = [];
    this.read = [];
    this.age = age;
  }

  saved() {
    return { held: this.held, event: this.event, age: this.age };
  }

  // What a step did: its number, what was noticed in it, the digits' shares by sense, and for each slot how much was written, how
  // much was read, and its age.
  step(number, events, shares, { written, read = [], age }) {
    Object.assign(this, { written, read, age });
    while (this.held.length < age.length) this.held.push(null);
    const current = this.event && number - this.event.step <= AFTER ? this.event : likeliest(number, shares);
    age.forEach((steps, slot) => {
      if (steps === 0) this.held[slot] = current;
    });
    for (const { sense, what } of events) {
      this.event = { sense, what, step: number };
      age.forEach((steps, slot) => {
        const guess = this.held[slot];
        const sure = guess?.doubt && guess.sense === sense && guess.what === what && number - guess.step <= LATE;
        if (sure || (steps <= BEFORE && number > BEFORE)) this.held[slot] = this.event;
      });
    }
  }
}

function likeliest(step, shares) {
  let found = { share: LIKELY };
  for (const [sense, digits] of Object.entries(shares)) {
    const share = Math.max(...digits.slice(0, 10));
    if (share > found.share) found = { sense, what: String(digits.indexOf(share)), step, doubt: true, share };
  }
  return found.sense ? found : null;
}
