package formattest

import "github.com/referee-cri/referee/internal/treecmp"

// RoundedTimes are what tables of contents by stargz-snapshotter lose: their times
// are rounded to whole seconds, half a second up.
var RoundedTimes = []treecmp.Ignore{
	{Path: "/nasty/time/**", Field: treecmp.FieldNsec, Why: "the writer's times have whole seconds"},
	{Path: "/nasty/time/tenth", Field: treecmp.FieldMtime, Why: "the writer rounds half a second up"},
	{Path: "/nasty/time/year-2040-nsec", Field: treecmp.FieldMtime, Why: "the writer rounds up"},
}
