// What can be asked by button: queries of the model, in words.

const PLACES = ["last", "second last", "third last", "fourth last"];
const places = (sense) => PLACES.map((place, at) => [`${sense} ${at + 1} last`, place]);

export const QUESTIONS = [
  { words: "What did I show", choices: places("seen") },
  { words: "What did I say", choices: places("heard") },
  { words: "What did I say before the", choices: [["heard before # was seen", "was shown?"]], digits: true },
  { words: "How long ago", choices: [["how long ago seen", "did I show something"]] },
];

export function wordsOf(query) {
  const before = /^heard before (\d) was seen$/.exec(query);
  if (before) return `What did I say before the ${before[1]}?`;
  for (const { words, choices } of QUESTIONS) {
    const found = choices.find(([one]) => one === query);
    if (found) return `${words} ${found[1]}?`;
  }
  return query;
}
