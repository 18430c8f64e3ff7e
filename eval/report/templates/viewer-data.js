// The data that the page carries: gzipped JSON as base64, unpacked when it is asked for.

const byId = (id) => document.getElementById(id);

async function unpacked(id) {
  const text = byId(id).textContent;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// Keeps the last few values that were asked for.
function kept(count, make) {
  const values = new Map();
  return (key) => {
    const value = values.has(key) ? values.get(key) : make(key);
    values.delete(key);
    values.set(key, value);
    if (values.size > count) values.delete(values.keys().next().value);
    return value;
  };
}

const pieceOf = kept(24, (number) => unpacked("piece-" + number));

const imageOf = kept(48, async (number) => {
  const image = new Image();
  image.src = "data:image/jpeg;base64," + byId("image-" + number).textContent;
  await image.decode();
  return image;
});

// What the index says of each group, computed once: where its members begin, mean and spread of what they
// earned, and the gain of the last over the first.
function summed(index) {
  const count = index.groups.size.length;
  const { reward } = index.rollouts;
  const found = {
    first: new Int32Array(count + 1),
    mean: new Float64Array(count),
    spread: new Float64Array(count),
    gain: new Float64Array(count),
    text: index.groups.query.map((query, group) =>
      (index.queries[query] + " " + index.groups.sample[group]).toLowerCase()
    ),
  };
  for (let group = 0; group < count; group++) {
    const begin = found.first[group];
    const end = (found.first[group + 1] = begin + index.groups.size[group]);
    let [known, sum, low, high] = [0, 0, Infinity, -Infinity];
    for (let row = begin; row < end; row++) {
      if (reward[row] === null) continue;
      known++;
      sum += reward[row];
      low = Math.min(low, reward[row]);
      high = Math.max(high, reward[row]);
    }
    found.mean[group] = known ? sum / known : NaN;
    found.spread[group] = known ? high - low : NaN;
    const [before, after] = [reward[begin], reward[end - 1]];
    found.gain[group] = end - begin > 1 && before !== null && after !== null ? after - before : NaN;
  }
  return found;
}

// Groups that pass a filter, in the order asked for. `filter.rollout(row, group)` says which rollouts are
// meant; a group passes if one of its own is.
function chosenGroups(index, sums, filter) {
  const found = [];
  for (let group = 0; group < index.groups.size.length; group++) {
    if (!filter.group(group)) continue;
    if (filter.rollout) {
      let any = false;
      for (let row = sums.first[group]; row < sums.first[group + 1] && !any; row++) {
        any = filter.rollout(row, group);
      }
      if (!any) continue;
    }
    found.push(group);
  }
  const { key, sign } = filter.order;
  if (key) {
    const values = sums[key];
    // What has no value comes last, whichever way is up.
    const worth = (group) => (Number.isNaN(values[group]) ? Infinity : sign * values[group]);
    found.sort((one, other) => worth(one) - worth(other) || one - other);
  }
  return found;
}
