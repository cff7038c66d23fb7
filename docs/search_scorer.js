// Weights of the site's search: guides come before the API reference and the changelog.
var Scorer = {
  score: ([docname, title, anchor, descr, score, filename, kind]) =>
    /^(docs\/api\/|CHANGELOG|CONTRIBUTING)/.test(docname) ? score - 30 : score,
  // the rest is Sphinx's own
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
