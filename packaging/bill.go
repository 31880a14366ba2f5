package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"strings"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
)

// bill writes the bill of materials of a binary, from what the compiler noted in
// it, beside it and returns its path. It has no serial number and no time: those
// would differ with every build.
func (r *release) bill(binary string) (path string, err error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return "", fmt.Errorf("bill of materials: %w", err)
	}
	sbom := cyclonedx.NewBOM()
	main := component(info.Main.Path, r.version)
	main.Type = cyclonedx.ComponentTypeApplication
	sbom.Metadata = &cyclonedx.Metadata{Component: &main}
	needed := []string{}
	components := []cyclonedx.Component{component("stdlib", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		components = append(components, component(module.Path, module.Version))
	}
	for i := range components {
		needed = append(needed, components[i].BOMRef)
	}
	sbom.Components = &components
	sbom.Dependencies = &[]cyclonedx.Dependency{{Ref: main.BOMRef, Dependencies: &needed}}
	path = binary + ".cdx.json"
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if err := cyclonedx.NewBOMEncoder(file, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(sbom); err != nil {
		return "", fmt.Errorf("bill of materials: %w", err)
	}
	return path, file.Sync()
}

// component is a Go module (github.com/package-url/purl-spec, type golang).
func component(path, version string) cyclonedx.Component {
	purl := "pkg:golang/" + path + "@" + version
	return cyclonedx.Component{BOMRef: purl, Type: cyclonedx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: purl}
}
