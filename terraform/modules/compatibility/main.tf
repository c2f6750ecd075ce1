locals {
  matrix = jsondecode(file("${path.module}/matrix.json"))

  # ---- features ----
  wanted = { for word in var.features : word => try(local.matrix.words[word], null) if contains(keys(local.matrix.words), word) }
  found = { for word, id in local.wanted : id => {
    title   = local.matrix.features[id].title
    verdict = local.matrix.features[id].verdicts[var.dataplane].verdict
    reason  = local.matrix.features[id].verdicts[var.dataplane].reason
    since   = local.matrix.features[id].verdicts[var.dataplane].since
    way_out = local.matrix.features[id].way_out
  }... }
  verdicts = { for id, same in local.found : id => same[0] }

  younger = [for id, cell in local.verdicts : id if try(local.older[var.dataplane_version][jsonencode(cell.since)], false)]
  feature_refusals = concat(
    [for id, cell in local.verdicts : {
      subject = id
      reason  = "${cell.title} is ${cell.verdict} on ${var.dataplane}. ${cell.reason}"
      remedy  = cell.way_out
    } if !contains(var.accepted, cell.verdict)],
    [for id in local.younger : {
      subject = id
      reason  = "${local.verdicts[id].title} is there from ${join(" and ", local.verdicts[id].since)} on, and the version is ${var.dataplane_version}."
      remedy  = "Choose a newer version, or do without."
    } if contains(var.accepted, local.verdicts[id].verdict)],
  )

  # ---- versions ----
  # What is asked for, as the numbers that matrix.json has for its floors. With a minor alone, it may be any patch.
  parts = { for version in compact([var.dataplane_version, try(tostring(var.spec.gke.clusterVersion), null)]) : version => [
    for part in regex("^v?([0-9]+)(?:\\.([0-9]+))?(?:\\.([0-9]+))?(?:-gke\\.([0-9]+))?", version) : part == null ? 0 : tonumber(part)
  ] if can(regex("^v?[0-9]", version)) }
  asked = { for version, parts in local.parts : version => {
    line  = parts[0] * 1000 + parts[1]
    whole = ((parts[0] * 1000 + parts[1]) * 10000 + parts[2]) * 100000000 + parts[3]
    open  = length(split(".", version)) < 3 && !strcontains(version, "-")
  } }
  # Version -> floor lists, in JSON -> whether it is below every floor that counts for it: each is the first of its minor line, so 1.26.4 and
  # 1.27.1 together leave 1.27.0 out.
  floor_lists = distinct(concat(
    [for id, cell in local.verdicts : jsonencode(cell.since)],
    flatten([for rule in values(local.rules) : [for condition in rule.when : jsonencode(condition.value) if condition.op == "older"]]),
  ))
  older = { for version, asked in local.asked : version => { for list in local.floor_lists : list => (
    length(jsondecode(list)) == 0 ? false :
    contains([for floor in jsondecode(list) : local.matrix.floors[floor].line], asked.line)
    ? !asked.open && alltrue([for floor in jsondecode(list) : asked.whole < local.matrix.floors[floor].whole if asked.line == local.matrix.floors[floor].line])
    : asked.line < max([for floor in jsondecode(list) : local.matrix.floors[floor].line]...)
  ) } }

  # ---- a spec ----
  rules = { for id, rule in local.matrix.rules : id => rule if try(rule.severity[var.dataplane], null) != null }
  # Every value by its dotted name, in JSON: spec.gke.autopilot => true.
  values = var.spec == null ? {} : merge(flatten([for a, av in var.spec : can(keys(av))
    ? [for b, bv in av : can(keys(bv)) ? { for c, cv in bv : "spec.${a}.${b}.${c}" => jsonencode(cv) } : { "spec.${a}.${b}" = jsonencode(bv) }]
    : [{ "spec.${a}" = jsonencode(av) }]
  ])...)
  of_pools = "spec.gke.nodePools[*]."
  pools    = try(tolist([for pool in var.spec.gke.nodePools : { for name, value in pool : name => jsonencode(value) }]), [])

  # Rule -> the places that it looks at, each as a map of JSON by the names that its conditions use.
  places = var.spec == null ? {} : { for id, rule in local.rules : id => flatten([for place in concat(rule.each, length(rule.each) == 0 ? [""] : []) :
    place == "" ? [local.values] : place == "spec.gke.nodePools[*]" ? local.pools : [
      { for name, value in local.values : trimprefix(name, "${place}.") => value if startswith(name, "${place}.") }
    ]
  ]) }
  # A condition holds when it does for any of the values at its path; of a path through the node pools there are several.
  tripped = [for id, places in local.places : id if anytrue([for place in places : alltrue([for condition in local.rules[id].when : anytrue([
    for value in startswith(condition.path, local.of_pools) ? [for pool in local.pools : lookup(pool, trimprefix(condition.path, local.of_pools), "null")] : [lookup(place, condition.path, "null")] : (
      condition.op == "equals" ? value == jsonencode(condition.value) :
      condition.op == "differs" ? value != jsonencode(condition.value) :
      condition.op == "present" ? value != "null" :
      condition.op == "absent" ? value == "null" :
      condition.op == "above" ? try(tonumber(value) > condition.value, false) :
      condition.op == "below" ? try(tonumber(value) < condition.value, false) :
      condition.op == "in" ? try(contains([for one in condition.value : jsonencode(one)], value), false) :
      condition.op == "matches" ? can(regex(condition.value, jsondecode(value))) :
      condition.op == "older" ? try(local.older[jsondecode(value)][jsonencode(condition.value)], false) : false
    )
  ])])])]
  findings = [for id in local.tripped : {
    subject  = id
    severity = local.rules[id].severity[var.dataplane]
    reason   = local.rules[id].reason[var.dataplane]
    remedy   = local.rules[id].remedy
  }]

  refusals = concat(local.feature_refusals, [for finding in local.findings : {
    subject = finding.subject
    reason  = finding.reason
    remedy  = finding.remedy
  } if finding.severity == "error"])
}
